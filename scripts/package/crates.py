#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Prepare a folder of `cargo vendor` for a source package.

    scripts/package/crates.py MANIFEST FOLDER

Crates that are not used on Linux, half of it and with binaries in it, lose everything but
their manifest: cargo wants to see that each crate of Cargo.lock is there. Prints a
paragraph of debian/copyright for each of the others.
"""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

MACHINES = ("x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu")
# Where a crate says who may do what with it, the best choice first.
LICENCE_FILES = (
    "LICENSE-MIT*", "LICENSE_MIT*", "LICENSE-mit*", "license-mit*",
    "LICENSE*", "COPYING*", "LICENCE*", "license*",
)

# Files of a crate that are no source.
BINARIES = (".a", ".dll", ".exe", ".lib")


def metadata(manifest, *options):
    command = ["cargo", "metadata", "--format-version=1", "--locked", "--offline"]
    command += ["--manifest-path", manifest, *options]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def used_packages(manifest):
    """The packages of others that a build on Linux uses, by name and version."""
    used = {}
    for machine in MACHINES:
        answer = metadata(manifest, "--filter-platform", machine)
        nodes = {node["id"] for node in answer["resolve"]["nodes"]}
        for package in answer["packages"]:
            if package["id"] in nodes and package["source"]:
                used[package["name"], package["version"]] = package
    return used


def strip_crate(folder):
    """Leave the manifest, and as much as makes it a crate."""
    for path in folder.iterdir():
        if path.name in ("Cargo.toml", ".cargo-checksum.json"):
            continue
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    (folder / "src").mkdir()
    (folder / "src/lib.rs").touch()
    sums = folder / ".cargo-checksum.json"
    sums.write_text(json.dumps({"files": {}, "package": json.loads(sums.read_text())["package"]}))


def drop_binaries(folder):
    """Remove programs that tests for another system use; cargo compares all files with its sums."""
    sums = folder / ".cargo-checksum.json"
    content = json.loads(sums.read_text())
    for path in [path for path in folder.rglob("*") if path.suffix in BINARIES]:
        path.unlink()
        content["files"].pop(str(path.relative_to(folder)))
    sums.write_text(json.dumps(content))


def licence_text(folder):
    for pattern in LICENCE_FILES:
        for path in sorted(folder.glob(pattern)):
            if path.is_file():
                return path.read_text(errors="replace").strip()
    return None


def copyright_holders(text):
    """The lines of a licence that say so, without the word; a name may be on the next line."""
    lines = text.splitlines()
    holders = []
    for line, following in zip(lines, lines[1:] + [""]):
        match = re.match(r"\s*(?:(?:copyright|\(c\)|©)[\s:]*)+(.*)$", line, re.I)
        if match and re.search(r"\d{4}|\(c\)|©", line, re.I) and "[" not in line:
            holder = match.group(1).strip()
            if re.fullmatch(r"[\d\s,-]*", holder):
                holder = f"{holder} {following.strip()}".strip()
            holders.append(holder)
    return list(dict.fromkeys(holders))


def paragraph(folder, package):
    """What debian/copyright says of a crate."""
    text = licence_text(folder) or ""
    holders = copyright_holders(text) or package["authors"] or [f"the authors of {package['name']}"]
    expression = re.sub(r"\s*/\s*|\s+OR\s+", " or ", package["license"] or "see-below")
    expression = expression.replace(" AND ", " and ")
    expression = re.sub(r" WITH (\S+)-exception", r" with \1 exception", expression)
    if re.match(r"\s*Apache License", text):
        text = "Its text is in /usr/share/common-licenses/Apache-2.0."
    print(f"Files: vendor/{folder.name}/*")
    print("Copyright: " + "\n           ".join(holders))
    print(f"License: {expression}")
    text = text or f"{expression}, as its Cargo.toml says; it has no other text."
    for line in text.splitlines():
        print(" " + (line.rstrip() or "."))
    print()


def main():
    manifest, vendor = sys.argv[1], Path(sys.argv[2])
    used = used_packages(manifest)
    left = set(used)
    for folder in sorted(vendor.iterdir()):
        text = (folder / "Cargo.toml").read_text()
        name = re.search(r'^name = "(.*)"$', text, re.M).group(1)
        version = re.search(r'^version = "(.*)"$', text, re.M).group(1)
        if (name, version) not in used:
            strip_crate(folder)
            continue
        left.discard((name, version))
        drop_binaries(folder)
        paragraph(folder, used[name, version])
    if left:
        sys.exit(f"crates.py: error: these crates are not in {vendor}: {sorted(left)}")


main()
