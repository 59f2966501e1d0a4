"""One Apache Kafka with every kind of door, and mosquitto with locks: what the tests of TLS and logins connect to.

Kafka's doors, by name of `ports`: MUTUAL (TLS, client certificate), LOGIN (TLS, user), CLEAR (user without TLS), STALE (an
expired certificate), ELSEWHERE (a certificate of another host). PLAINTEXT is for the tests' own use: its anonymous user
may do everything. User `gateway` may, too; `limited` and `nobody` (PLAIN only) what the one test of each allows it.
"""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

from certificates import DAY, Authority
from servers import Kafka, absent

if TYPE_CHECKING:
    from pathlib import Path

SECRET = "kept secret 100 % $x"  # with what configuration formats like to eat
LISTENERS = {"MUTUAL": "SSL", "LOGIN": "SASL_SSL", "CLEAR": "SASL_PLAINTEXT", "STALE": "SSL", "ELSEWHERE": "SSL"}
MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")


class Doors:
    """The Kafka broker, its authority and the files that a client needs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority = Authority(folder / "ca")
        self.stranger = Authority(folder / "stranger", "another ca")
        self.cert, self.key = self.authority.issue("gateway")
        self.password = write_secret(folder / "password", SECRET)
        issue = self.authority.issue
        stores = {
            "good": self._store("server", issue("server", subject="broker 1")),
            "stale": self._store("stale", issue("stale", ends_in=-DAY)),
            "elsewhere": self._store("elsewhere", issue("elsewhere", host="kafka.example.org")),
        }
        config = {
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": str(stores["good"]),
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": str(self.authority.ca),
            "listener.name.mutual.ssl.client.auth": "required",
            "listener.name.stale.ssl.keystore.location": str(stores["stale"]),
            "listener.name.elsewhere.ssl.keystore.location": str(stores["elsewhere"]),
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": "User:ANONYMOUS;User:gateway;User:CN=gateway",
        }
        plain = "org.apache.kafka.common.security.plain.PlainLoginModule required"
        scram = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
        for door in ("login", "clear"):
            prefix = f"listener.name.{door}"
            config[f"{prefix}.sasl.enabled.mechanisms"] = ",".join(MECHANISMS)
            users = f'user_gateway="{SECRET}" user_limited="{SECRET}" user_nobody="{SECRET}"'
            config[f"{prefix}.plain.sasl.jaas.config"] = f"{plain} {users};"
            config[f"{prefix}.scram-sha-256.sasl.jaas.config"] = scram
            config[f"{prefix}.scram-sha-512.sasl.jaas.config"] = scram
        scrams = [
            word
            for user in ("gateway", "limited")
            for mechanism in MECHANISMS[1:]
            for word in ("--add-scram", f"{mechanism}=[name={user},password={SECRET}]")
        ]
        self.kafka = Kafka(folder / "kafka", config=config, listeners=LISTENERS, format_options=scrams)
        self.kafka.start_timeout_s = 100.0  # seven listeners, on a machine that others use, too

    def address(self, door: str) -> str:
        return f"127.0.0.1:{self.kafka.ports[door]}"

    def keys(self, door: str, **other: object) -> dict[str, object]:
        """Configuration keys of a gateway that comes in by a door; `other` replaces some, None leaves one out."""
        keys: dict[str, object] = {"kafka": self.address(door)}
        if door != "CLEAR":
            keys["kafka_ca"] = str(self.authority.ca)
        if door == "MUTUAL":
            keys |= {"kafka_cert": str(self.cert), "kafka_key": str(self.key)}
        if door in ("LOGIN", "CLEAR"):
            keys |= {"kafka_user": "gateway", "kafka_password_file": str(self.password)}
        keys |= other
        return {key: value for key, value in keys.items() if value is not None}

    def _store(self, name: str, pair: tuple[Path, Path]) -> Path:
        """Key and certificate in one file, as Kafka's PEM key store wants it."""
        store = self.folder / f"{name}.store.pem"
        store.write_bytes(pair[1].read_bytes() + pair[0].read_bytes())
        return store


def write_secret(path: Path, text: str) -> Path:
    path.write_text(f"{text}\n")
    path.chmod(0o600)
    return path


def mosquitto_password(path: Path, user: str, password: str) -> Path:
    """A password_file as mosquitto_passwd makes it."""
    tool = shutil.which("mosquitto_passwd")
    if tool is None:
        absent("mosquitto", "mosquitto_passwd is not installed (as root: apt-get install mosquitto)")
    subprocess.run([tool, "-b", *([] if path.exists() else ["-c"]), str(path), user, password], check=True, timeout=30)
    return path


def mosquitto_tls(port: int, authority: Authority, pair: tuple[Path, Path], *, more: str = "") -> str:
    """mosquitto.conf lines of a TLS listener."""
    lines = f"listener {port} 127.0.0.1\ncafile {authority.ca}\ncertfile {pair[0]}\nkeyfile {pair[1]}\n"
    return lines + "max_queued_messages 100000\n" + more
