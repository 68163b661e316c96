#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Complete the rust-project.json that the kernel generates.

The kernel's script finds a crate of an external module by the Makefile beside
it, so it misses ours; and it names the build root's files as they are called
inside the root.
"""

import json
import sys

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


def main():
    source, target, root, top, out = sys.argv[1:]
    with open(source, encoding="utf-8") as stream:
        project = outside(json.load(stream), root)
    crates = project["crates"]
    index = {crate["display_name"]: number for number, crate in enumerate(crates)}
    model = crates[index["kernel"]]
    for name, module, others in CRATES:
        index[name] = len(crates)
        crates.append({
            **model,
            "display_name": name,
            "root_module": f"{top}/{module}",
            "is_workspace_member": True,
            "deps": [{"crate": index[other], "name": other} for other in KERNEL + others],
            "env": {**model["env"], "DMIRROR_OBJ": out, "RUST_MODFILE": name},
            "source": {"include_dirs": [top, out], "exclude_dirs": []},
        })
    with open(target, "w", encoding="utf-8") as stream:
        json.dump(project, stream, indent=4, sort_keys=True)


if __name__ == "__main__":
    main()
