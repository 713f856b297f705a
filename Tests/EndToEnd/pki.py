"""Certificates for tests, made by the openssl tool."""

import pathlib
import subprocess
from dataclasses import dataclass


def openssl(*arguments, **options):
    return subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True, **options)


@dataclass(frozen=True)
class Identity:
    """A certificate and its key; `issuer` is None for one that signed itself."""

    certificate: pathlib.Path
    key: pathlib.Path

    def arguments(self):
        return ["--tls-cert", self.certificate, "--tls-key", self.key]

    def yaml(self):
        return f"certificate_file: {self.certificate}, key_file: {self.key}"


_KEYS = {"ec": ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"], "rsa": ["-newkey", "rsa:2048"]}


class Authority:
    """A certificate authority in a folder of its own; `issuer` makes it an intermediate one."""

    def __init__(self, folder, name="authority", issuer=None):
        self.folder = pathlib.Path(folder) / name
        self.folder.mkdir(parents=True)
        self.name = name
        self._serial = 0
        extensions = ["-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=keyCertSign,cRLSign"]
        if issuer:
            self.identity = issuer.issue(name, extensions=["basicConstraints=critical,CA:TRUE"])
        else:
            self.identity = Identity(self.folder / "ca.pem", self.folder / "ca.key")
            openssl("req", "-x509", *_KEYS["ec"], "-nodes", "-keyout", self.identity.key,
                    "-out", self.identity.certificate, "-days", 2, "-subj", f"/CN={name}", *extensions)  # fmt: skip

    @property
    def file(self):
        return self.identity.certificate

    def issue(self, name, *alternatives, kind="ec", extensions=(), days=2):
        """A certificate for CN=`name`; `alternatives` are as in `DNS:localhost` or `IP:127.0.0.1`."""
        self._serial += 1
        stem = self.folder / f"{self._serial}"
        identity = Identity(stem.with_suffix(".crt"), stem.with_suffix(".key"))
        request, added = stem.with_suffix(".csr"), stem.with_suffix(".ext")
        openssl("req", "-new", *_KEYS[kind], "-nodes", "-keyout", identity.key, "-out", request, "-subj", f"/O=test/CN={name}")
        names = [f"subjectAltName={','.join(alternatives)}"] if alternatives else []
        added.write_text("\n".join([*names, *extensions]) + "\n")
        openssl("x509", "-req", "-in", request, "-CA", self.identity.certificate, "-CAkey", self.identity.key,
                "-set_serial", f"{abs(hash((self.name, self._serial))) % 2**60}", "-days", days,
                "-extfile", added, "-out", identity.certificate)  # fmt: skip
        return identity


def serial(certificate):
    """The serial number in a PEM file, as `ssl` shows that of a peer."""
    return openssl("x509", "-in", certificate, "-noout", "-serial", text=True).stdout.strip().split("=")[1]
