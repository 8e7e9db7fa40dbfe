"""Lets PyPI's Linux wheel of torch load without the gigabytes of CUDA libraries that it links.

Builds an empty stand-in beside torch's own libraries for every CUDA library that they ask for and that is not installed, with the symbols (and
their versions) that they want from it. Every function returns 35, "driver too old", so torch finds no device. Needs gcc and readelf.
"""

import collections
import importlib.util
import pathlib
import re
import subprocess
import tempfile


def output(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def main():
    folder = pathlib.Path(importlib.util.find_spec("torch").origin).parent / "lib"  # found, not imported
    libraries = sorted(folder.glob("*.so*"))
    present = {library.name for library in libraries}
    needed, defined, wanted = set(), set(), set()
    for library in libraries:
        needed |= set(re.findall(r"\(NEEDED\).*\[(.*)\]", output("readelf", "-dW", library)))
        for line in output("readelf", "--dyn-syms", "-W", library).splitlines():
            fields = line.split()
            if len(fields) < 8 or not fields[0].rstrip(":").isdigit():
                continue
            name, _, version = fields[7].partition("@")
            if fields[6] != "UND":
                defined.add(name)
            elif fields[4] != "WEAK":
                wanted.add((name, version.lstrip("@")))
    missing = sorted(name for name in needed - present if re.match(r"lib(cu|nv|nccl)", name))
    if not missing:
        return

    owner = {}  # the library that a symbol version belongs to
    for library in libraries:
        file = None
        for line in output("readelf", "-VW", library).splitlines():
            if found := re.search(r"File: (\S+)", line):
                file = found[1]
            elif (found := re.search(r"Name: (\S+)", line)) and file in missing:
                owner[found[1]] = file
    versions = collections.defaultdict(lambda: collections.defaultdict(list))
    for name, version in wanted:
        if version in owner:
            versions[owner[version]][version].append(name)
    # The linker does not care which library a symbol without a version comes from: all are in one that every other one needs.
    plain = {name for name, version in wanted if not version and name not in defined and is_cuda(name)}

    for library in missing:
        symbols = {name for names in versions[library].values() for name in names}
        if library.startswith("libcudart"):
            symbols |= plain
        with tempfile.TemporaryDirectory() as temporary:
            source, script = pathlib.Path(temporary, "stub.c"), pathlib.Path(temporary, "stub.map")
            source.write_text("".join(f"int {name}(void) {{ return 35; }}\n" for name in sorted(symbols)) or "int unused;\n")
            script.write_text(
                "".join(f"{version} {{ global: {'; '.join(names)}; }};\n" for version, names in versions[library].items())
            )
            options = ["-w", "-fno-builtin", "-shared", "-fPIC", f"-Wl,-soname,{library}"]
            if versions[library]:
                options.append(f"-Wl,--version-script={script}")
            subprocess.run(["gcc", *options, "-o", folder / library, source], check=True)
    print(f"{len(missing)} stand-ins for CUDA libraries")


def is_cuda(name):
    return re.match(r"(cu|nccl|nv|__cuda)", name, re.IGNORECASE) is not None or "nvshmem" in name


if __name__ == "__main__":
    main()
