#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Make rust-project.json for editors, from a build for the stock kernel.

The kernel's script finds a crate of an external module by the Makefile beside
it, so it misses ours; and it names the build root's files as they are called
inside the root.
"""

import json
import pathlib
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
TOP = HERE.parents[1]
# Our crates: name, root module, dependencies among each other.
CRATES = [
    ("hmm", "rust/hmm/hmm.rs", []),
    ("emu", "rust/emu/emu.rs", ["hmm"]),
    ("dmirror", "rust/dmirror/dmirror.rs", ["hmm", "emu"]),
    ("minimal", "samples/minimal/driver.rs", ["hmm", "emu"]),
    ("ivshmem", "samples/ivshmem/driver.rs", ["hmm"]),
]
# What each of them gets of the kernel; see scripts/Makefile.build there.
KERNEL = ["core", "kernel", "pin_init", "zerocopy", "zerocopy_derive"]


def outside(value, root):
    """Paths as they are called outside of the build root."""
    if isinstance(value, dict):
        return {key: outside(item, root) for key, item in value.items()}
    if isinstance(value, list):
        return [outside(item, root) for item in value]
    if isinstance(value, str) and (value == "/usr" or value.startswith("/usr/")):
        return root + value
    return value


def output_of(script, *arguments):
    """What a script of this folder prints: a path."""
    command = [HERE / script, *arguments]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def complete(project, root, out):
    """The project with our crates, and with files as they are called here."""
    project = outside(project, root)
    crates = project["crates"]
    index = {crate["display_name"]: number for number, crate in enumerate(crates)}
    model = crates[index["kernel"]]
    for name, module, others in CRATES:
        index[name] = len(crates)
        crates.append({
            **model,
            "display_name": name,
            "root_module": f"{TOP}/{module}",
            "is_workspace_member": True,
            "deps": [{"crate": index[other], "name": other} for other in KERNEL + others],
            "env": {**model["env"], "DMIRROR_OBJ": out, "RUST_MODFILE": name},
            "source": {"include_dirs": [str(TOP), out], "exclude_dirs": []},
        })
    return project


def main():
    try:
        root = output_of("root.sh")
        # The bindings are built first: an editor reads them.
        out = output_of("modules.sh", "stock")
        output_of("modules.sh", "stock", "rust-analyzer")
    except subprocess.CalledProcessError as error:
        return error.returncode
    project = json.loads(pathlib.Path(out, "rust-project.json").read_text(encoding="utf-8"))
    with open(TOP / "rust-project.json", "w", encoding="utf-8") as stream:
        json.dump(complete(project, root, out), stream, indent=4, sort_keys=True)
    print("==> made rust-project.json", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
