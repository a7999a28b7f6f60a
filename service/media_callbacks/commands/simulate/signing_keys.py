"""The key that rehearsals sign MNS pushes with, in a file, and the certificate that a source pins."""

import json
import shlex
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from media_callbacks.config.file import PREFIX
from media_callbacks.config.settings import Settings
from media_callbacks.config.sources import MnsPushSourceSettings
from media_callbacks.model.errors import ConfigError
from media_callbacks.rehearsal.simulate import (
    MnsSigner,
    make_mns_key,
)
from media_callbacks.timing.clock import utc_now

KEY_FILE = "mns-simulator.key.pem"


CERTIFICATE_FILE = "mns-simulator.certificate.pem"


def make_signing_key(settings: Settings, path: Path) -> int:
    """
    Write a key and its certificate, and print what pins it for one shell: a certificate of a rehearsal has no place in
    the configuration.

    Raises:
        ConfigError: The key is there, or there is no source to pin it.
    """
    sources = [name for name, table in settings.sources.items() if isinstance(table, MnsPushSourceSettings)]
    if not sources:
        raise ConfigError(["sources: none of transport mns-push is configured, so there is nothing to sign for"])
    if path.exists():
        raise ConfigError([f"--signing-key: {path} is there already; remove it first or name another file"])
    key, certificate = make_mns_key(now=utc_now())
    path.touch(mode=0o600)
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    certificate_path = path.with_name(CERTIFICATE_FILE)
    certificate_path.write_text(certificate)
    print("# for the shell of the service and that of simulate, in rehearsals alone:")
    pinned = json.dumps({MnsSigner(key).certificate_url: f"file:{certificate_path.resolve()}"})
    for name in sources:
        print(f"export {PREFIX}SOURCES__{name.upper().replace('-', '_')}__CERTIFICATES={shlex.quote(pinned)}")
    return 0


def read_signer(table: object, path: Path) -> MnsSigner:
    """
    The signer whose certificate the source pins.

    Raises:
        ConfigError: There is no key, or the source does not pin its certificate.
    """
    hint = "make one with --make-signing-key, and set the variable that it prints"
    try:
        key = load_pem_private_key(path.read_bytes(), None)
    except OSError as error:
        raise ConfigError([f"--signing-key: cannot read {path} ({error.strerror}); {hint}"]) from error
    except ValueError as error:
        raise ConfigError([f"--signing-key: {path} holds no private key in PEM form; {hint}"]) from error
    assert isinstance(table, MnsPushSourceSettings)
    if isinstance(key, RSAPrivateKey):
        for url, pem in table.certificates.items():
            if x509.load_pem_x509_certificate(pem.encode()).public_key() == key.public_key():
                return MnsSigner(key, url)
    raise ConfigError([f"--signing-key: no certificate pinned by the source belongs to {path}; {hint}"])
