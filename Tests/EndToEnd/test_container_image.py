"""config/Containerfile: the packages that it installs are all that the program needs beside Debian's base."""

import os
import pathlib
import re
import shutil
import subprocess

import processes
import pytest

CONTAINERFILE = processes.REPOSITORY / "config" / "Containerfile"
# Of what debian:12-slim brings, the libraries that a program of any language needs.
BASE = {"libc6", "libgcc-s1"}


def installed():
    text = CONTAINERFILE.read_text().replace("\\\n", " ")
    return set(re.search(r"--no-install-recommends(.*?)&&", text).group(1).split())


def libraries_of(package):
    listed = subprocess.run(["dpkg", "-L", package], capture_output=True, text=True, check=True).stdout.split()
    return [pathlib.Path(path) for path in listed if re.search(r"\.so[.\d]*$", path)]


# A root, processes and /proc of one's own, as in a container; Swift reads the command line from there.
ISOLATED = ["unshare", "--map-root-user", "--pid", "--fork", "--mount-proc=/proc"]


def can_isolate():
    return subprocess.run([*ISOLATED, "true"], capture_output=True, check=False).returncode == 0


@pytest.mark.skipif(not can_isolate(), reason="no namespaces here")
@pytest.mark.skipif(processes.IS_SANITIZED, reason="brings the sanitizer's own library")
def test_the_program_starts_with_the_packages_of_the_image_alone(tmp_path):
    # What Debian calls /lib is a link to /usr/lib, in the image as here.
    for folder in ("lib", "lib64", "bin"):
        (tmp_path / "usr" / folder).mkdir(parents=True)
        (tmp_path / folder).symlink_to(f"usr/{folder}")
    for package in installed() | BASE:
        for path in libraries_of(package):
            kept = tmp_path / path.parent.resolve().relative_to("/") / path.name
            kept.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, kept)
    program = tmp_path / "bin" / "swiftlet"
    try:
        os.link(processes.BINARY, program)
    except OSError:
        shutil.copy(processes.BINARY, program)
    shutil.copy(processes.REPOSITORY / "config" / "swiftlet.yaml", tmp_path)
    (tmp_path / "proc").mkdir()
    command = [*ISOLATED, "--root", str(tmp_path), "/bin/swiftlet", "check", "--config", "/swiftlet.yaml"]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert answer.returncode == 0, answer.stderr
    assert "least-cost" in answer.stdout
