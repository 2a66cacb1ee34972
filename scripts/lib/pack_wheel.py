"""Pack the compiled meter into a wheel that fits every Python 3: usage: pack_wheel.py TREE MACHINE OUT_DIRECTORY."""

import base64
import hashlib
import sys
import tomllib
import zipfile
from pathlib import Path

tree, machine, out = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
project = tomllib.loads((Path(__file__).resolve().parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
version = project["version"]
# The library calls memcpy, malloc and free alone, so any glibc does.
tag = f"py3-none-manylinux2014_{machine}"
info = f"kinwatch_fast-{version}.dist-info"
files = {str(p.relative_to(tree)): p.read_bytes() for p in sorted(tree.rglob("*")) if p.is_file()}
files[f"{info}/METADATA"] = (
    f"Metadata-Version: 2.1\nName: kinwatch-fast\nVersion: {version}\n"
    f"Summary: Compiled flow meter of Kinwatch\nLicense: {project['license']}\n"
).encode()
files[f"{info}/WHEEL"] = f"Wheel-Version: 1.0\nGenerator: kinwatch\nRoot-Is-Purelib: false\nTag: {tag}\n".encode()
record = "".join(
    f"{name},sha256={base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b'=').decode()},{len(data)}\n"
    for name, data in files.items()
)
files[f"{info}/RECORD"] = (record + f"{info}/RECORD,,\n").encode()
path = out / f"kinwatch_fast-{version}-{tag}.whl"
with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as wheel:
    for name, data in files.items():
        wheel.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), data)
print(path)
