#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Make rust-project.json (rust-analyzer) and compile_commands.json (clangd), from a
build for the stock kernel.

The kernel's script for Rust finds a crate of an external module by the Makefile
beside it, so it misses ours; and it names the build root's files as they are called
inside the root. That for C names options of gcc that clangd does not know.
"""

import json
import pathlib
import shlex
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


# What an editor has to know of a compiler's options. They are one word each, but -include.
FOR_EDITORS = ("-I", "-D", "-nostdinc", "-std=", "-fshort-wchar", "-funsigned-char", "-fms-extensions")


def arguments(command):
    """The arguments of a compiler's command that an editor needs."""
    words = shlex.split(command)
    kept = [word for word in words if word.startswith(FOR_EDITORS)]
    for option, file in zip(words, words[1:]):
        if option == "-include":
            kept += [option, file]
    return ["clang", *kept]


def c_files(commands, root):
    """The entries of our C files, from the kernel's and for the programs of the guest."""
    entries = []
    for entry in commands:
        file = pathlib.Path(entry["file"])
        if file.is_relative_to(TOP) and not file.is_relative_to(TOP / "build"):
            words = [*arguments(entry["command"]), str(file)]
            entries.append({"directory": entry["directory"], "file": str(file), "arguments": words})
    for file in sorted((TOP / "scripts/guest/inside").glob("*.c")):
        words = ["clang", f"--sysroot={root}", f"-I{TOP}/rust/uapi", str(file)]
        entries.append({"directory": str(TOP), "file": str(file), "arguments": words})
    return entries


def write(name, content):
    with open(TOP / name, "w", encoding="utf-8") as stream:
        json.dump(content, stream, indent=4, sort_keys=True)
    print(f"==> made {name}", file=sys.stderr)


def main():
    try:
        root, stock = output_of("root.sh"), output_of("stock-kernel.sh")
        # The bindings are built first: an editor reads them.
        out = output_of("modules.sh", "stock")
        output_of("modules.sh", "stock", "rust-analyzer")
        script = pathlib.Path(stock, "linux/scripts/clang-tools/gen_compile_commands.py")
        commands = pathlib.Path(out, "compile_commands.json")
        subprocess.run([sys.executable, script, "-d", out, "-o", commands], check=True)
    except subprocess.CalledProcessError as error:
        return error.returncode
    project = json.loads(pathlib.Path(out, "rust-project.json").read_text(encoding="utf-8"))
    write("rust-project.json", complete(project, root, out))
    write("compile_commands.json", c_files(json.loads(commands.read_text(encoding="utf-8")), root))
    return 0


if __name__ == "__main__":
    sys.exit(main())
