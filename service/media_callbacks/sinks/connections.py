"""What sinks that keep a connection have in common: TLS from files, and why there is no connection."""

import asyncio
import socket
import ssl
from contextlib import suppress
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """
    Attributes:
        ca: Whom to trust in place of whom this machine trusts.
        certificate, key: Of this client, where the server asks who it is.
    """

    ca: str | None = None
    certificate: str | None = None
    key: str | None = None

    def make_context(self) -> ssl.SSLContext:
        """
        Read anew for each connection, so that a certificate that was renewed is used. It blocks.

        Raises:
            OSError: A file can't be read, or is none of TLS.
        """
        context = ssl.create_default_context(cafile=self.ca)
        if self.certificate is not None:
            context.load_cert_chain(self.certificate, self.key)
        return context


def abort(writer: asyncio.StreamWriter) -> None:
    """End a connection at once, whether it is being closed or not; nothing more leaves."""
    # A transport of TLS that is closing has nothing to abort any more in Python 3.11.2.
    with suppress(AttributeError):
        writer.transport.abort()


def explain_connection(error: BaseException) -> tuple[str, str]:
    """Why there was no connection, and what to do. Without the errors' own texts where these may hold the URL."""
    match error:
        case socket.gaierror() | UnicodeError():
            return "its host name can't be resolved", "check the host, and this machine's name servers"
        case TimeoutError():
            return "no answer in time", "see whether it runs, and whether a firewall or a missing route is in between"
        case ConnectionRefusedError():
            return "nothing takes connections there", "start it, or correct host and port"
        case ssl.SSLCertVerificationError():
            reason = f"its TLS certificate is not accepted: {error.verify_message}"
            return reason, "give it a valid one, or make its authority known to this machine"
        case ssl.SSLError() | ConnectionResetError():
            return "it hangs up while TLS is agreed on", "check scheme and port: does it speak TLS there?"
        case OSError():
            return f"no connection: {error.strerror or type(error).__name__}", "check the address, routes and firewalls"
        case _:
            return f"no usable answer ({type(error).__name__})", "check host and port: what answers there?"
