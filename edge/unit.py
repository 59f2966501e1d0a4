"""The agent as a systemd service, as text: the unit, its user, its folders. Pure: paths and facts in, files' content out.

What the service may do is the least that its configuration needs: no devices unless a serial port is a source, nothing below
/home but what is named there, secrets as credentials. docs/devices.md says what each limit is for; decision 0017, what was
rejected. It refuses to look at the machine: edge/service.py does.

Source: systemd.exec(5), systemd.service(5), systemd.resource-control(5), systemd 245 (JetPack 5) to 257.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable

    from edge.config import AgentConfig

UNIT = "covey-edge.service"
SECRETS = ("mqtt_key", "mqtt_password_file")  # keys whose files the service's user need not be able to read
CREDENTIALS_SINCE = 247  # LoadCredential=
_SLOWER_SINCE = 254  # RestartSteps=
STATE = "/var/lib/covey"

_PATHS = ("state", "bundle", "trusted_root", "mqtt_ca", "mqtt_cert", "mqtt_key", "mqtt_password_file")
_MANY = ("sources", "commission", "commission_fitted")
_HIDDEN = ("/home", "/root", "/run/user", "/tmp", "/var/tmp")  # ProtectHome=, PrivateTmp=  # noqa: S108  # names, not files
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]+:")
_START_S = 300  # the first start commissions: it reads whole flights from a card
_WATCHDOG_S = 60  # opening and calibrating a model is done within a turn of the loop
_STOP_ROOM_S = 15  # beside flush_s: close the outbox, end children
# Names of /proc/devices, and the modules that register them: a class that is not there when the service starts is not allowed.
_CLASSES = {"ttyACM": "cdc_acm", "ttyUSB": "usbserial"}
_TTY = re.compile(r"tty[A-Z]+")


@dataclass(frozen=True)
class Plan:
    """All that the files depend on."""

    config: AgentConfig  # with absolute paths
    config_path: str
    command: tuple[str, ...]  # starts `covey`
    user: str
    own_user: bool  # made for the service; False: it was there before
    systemd: int  # version
    code: tuple[str, ...]  # folders that Python and covey are in
    serial_group: str = "dialout"  # owner of serial ports
    memory_bytes: int = 512 * 1024 * 1024
    cpu_percent: int = 100  # of one core
    tasks: int = 64

    @property
    def credentials(self) -> dict[str, str]:
        """Key -> file, for secrets that systemd hands to the service."""
        if self.systemd < CREDENTIALS_SINCE:
            return {}
        return {key: path for key in SECRETS if (path := str(getattr(self.config, key)))}

    @property
    def serial(self) -> str:
        """Device file of a serial source; "" without one."""
        ports = [urlsplit(one).path for one in self.config.sources if one.startswith("mavlink+serial:")]
        return ports[0] if ports else ""

    @property
    def state_below_var_lib(self) -> str:
        """Name for StateDirectory=; "" where the state is kept elsewhere."""
        path = PurePosixPath(self.config.state)
        return str(path.relative_to("/var/lib")) if path.is_relative_to("/var/lib") and str(path) != "/var/lib" else ""


def absolute(config: AgentConfig) -> AgentConfig:
    """The same configuration wherever it is started: paths from the root."""

    def rooted(path: str) -> str:
        return str(Path(path).absolute()) if path and path != "system" and not _SCHEME.match(path) else path

    changes: dict[str, object] = {key: rooted(getattr(config, key)) for key in _PATHS}
    changes |= {key: tuple(rooted(one) for one in getattr(config, key)) for key in _MANY}
    return msgspec.structs.replace(config, **changes)


def unit_text(plan: Plan) -> str:
    """The unit file."""
    config = plan.config
    after = "network.target time-sync.target" + (" systemd-modules-load.service" if plan.serial else "")
    unit = [
        f"Description=covey edge agent of {config.device}",
        f"After={after}",  # without waiting for a network: an outage is an ordinary state
        f"RequiresMountsFor={quoted(config.state)}",
        "StartLimitIntervalSec=0",  # tries for ever
    ]
    words = (*plan.command, "edge", "run", "--config", plan.config_path)
    command = " ".join(quoted(word).replace("$", "$$") for word in words)
    service = [
        "Type=notify",
        "NotifyAccess=main",
        f"ExecStart={command}",
        f"User={plan.user}",
        f"TimeoutStartSec={_START_S}",
        f"TimeoutStopSec={int(config.flush_s) + _STOP_ROOM_S}",
        f"WatchdogSec={_WATCHDOG_S}",
        "Restart=always",
        "RestartSec=5",
        *(["RestartSteps=5", "RestartMaxDelaySec=60"] if plan.systemd >= _SLOWER_SINCE else []),
        "KillMode=mixed",
        *_environment(plan),
        *_folders(plan),
        *_devices(plan),
        *_sandbox(),
        *_limits(plan),
    ]
    install = ["WantedBy=multi-user.target"]
    head = f"# Written by `covey edge install`, which replaces it: for changes of your own, `systemctl edit {UNIT}`.\n"
    sections = {"Unit": unit, "Service": service, "Install": install}
    return head + "\n".join(f"[{name}]\n" + "".join(f"{line}\n" for line in lines) for name, lines in sections.items())


def _environment(plan: Plan) -> list[str]:
    lines = ["Environment=OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1"]  # BLAS would map a stack for each core
    for key, path in plan.credentials.items():
        # Not %d, which systemd knows from 250 on only.
        lines.append(f"LoadCredential={key}:{escaped(path)}")
        lines.append(f"Environment=COVEY_EDGE_{key.upper()}=/run/credentials/{UNIT}/{key}")
    return lines


def _folders(plan: Plan) -> list[str]:
    lines = ["ProtectSystem=strict", "PrivateTmp=yes", "UMask=0077"]
    config = plan.config
    if name := plan.state_below_var_lib:
        lines += [f"StateDirectory={quoted(name)}", "StateDirectoryMode=0700"]
    else:
        lines.append(f"{'BindPaths' if hidden(config.state) else 'ReadWritePaths'}={quoted(config.state)}")
    needed = _outermost(path for path in (*plan.code, *_read_paths(plan)) if hidden(path))
    seen = needed or hidden(config.state)
    lines.append(f"ProtectHome={'tmpfs' if seen else 'yes'}")  # tmpfs: all of it is hidden but what is bound
    lines += [f"BindReadOnlyPaths={quoted(f'-{path}')}" for path in needed]
    return lines


def _devices(plan: Plan) -> list[str]:
    if not plan.serial:
        return ["PrivateDevices=yes", "DevicePolicy=closed"]
    allowed = [f"DeviceAllow=char-{name} rw" for name in _classes(plan.serial)]
    allowed.append(f"DeviceAllow={plan.serial} rw")  # where the name hides the class: as it is when the service starts
    return ["DevicePolicy=closed", *allowed, f"SupplementaryGroups={plan.serial_group}"]


def _sandbox() -> list[str]:
    return [
        "NoNewPrivileges=yes",
        "CapabilityBoundingSet=",
        "AmbientCapabilities=",
        "RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX AF_NETLINK",
        "RestrictNamespaces=yes",
        "RestrictRealtime=yes",
        "RestrictSUIDSGID=yes",
        "LockPersonality=yes",
        "MemoryDenyWriteExecute=yes",  # the runtimes' kernels are compiled ahead: all three were run under it
        "ProtectClock=yes",
        "ProtectControlGroups=yes",
        "ProtectHostname=yes",
        "ProtectKernelLogs=yes",
        "ProtectKernelModules=yes",
        "ProtectKernelTunables=yes",
        "ProtectProc=invisible",
        "SystemCallArchitectures=native",
        "SystemCallFilter=@system-service",
        "SystemCallFilter=~@privileged",
        "SystemCallErrorNumber=EPERM",
    ]


def _limits(plan: Plan) -> list[str]:
    return [
        f"MemoryMax={plan.memory_bytes}",
        "MemorySwapMax=0",  # swapping wears a card out
        f"CPUQuota={plan.cpu_percent}%",
        "CPUWeight=20",  # flight software first
        "IOWeight=20",
        "OOMScoreAdjust=500",
        f"TasksMax={plan.tasks}",
        "LimitCORE=0",  # a dump would hold what was scored
        "LimitNOFILE=1024",
    ]


def sysusers_text(plan: Plan) -> str:
    """The service's user, for systemd-sysusers; "" where it was there before."""
    if not plan.own_user:
        return ""
    return f'u {plan.user} - "covey edge agent" {plan.config.state} -\n'


def tmpfiles_text(plan: Plan) -> str:
    """The state folder, where systemd does not make it by itself."""
    if plan.state_below_var_lib:
        return ""
    return f"d {quoted(plan.config.state)} 0700 {plan.user} {plan.user} -\n"


def modules_text(plan: Plan) -> str:
    """Modules of a serial port that may be plugged in later than the service starts."""
    return "".join(f"{_CLASSES[name]}\n" for name in _classes(plan.serial) if name in _CLASSES) if plan.serial else ""


def _classes(port: str) -> tuple[str, ...]:
    """Names in /proc/devices that a serial port may have: its own, or those of USB where a link hides it."""
    found = _TTY.match(Path(port).name)
    return (found[0],) if found else tuple(_CLASSES)


def _read_paths(plan: Plan) -> Iterable[str]:
    """Files that the configuration names and the service itself reads."""
    config = plan.config
    for key in ("bundle", "trusted_root", "mqtt_ca", "mqtt_cert", "mqtt_key", "mqtt_password_file"):
        if key not in plan.credentials and (path := str(getattr(config, key))):
            yield path
    for one in (*config.sources, *config.commission, *config.commission_fitted):
        if one.startswith("tail:"):
            yield str(Path(urlsplit(one).path).parent)  # the file may be replaced
        elif not _SCHEME.match(one):
            yield one


def hidden(path: str) -> bool:
    """Whether the service sees a path only where it is bound for it."""
    return any(PurePosixPath(path).is_relative_to(one) for one in _HIDDEN)


def _outermost(paths: Iterable[str]) -> list[str]:
    """Without those that lie in another of them."""
    kept: list[str] = []
    for path in sorted(set(paths)):
        if not any(PurePosixPath(path).is_relative_to(one) for one in kept):
            kept.append(path)
    return kept


def escaped(text: str) -> str:
    """Text in which systemd finds no specifier."""
    return text.replace("%", "%%")


def quoted(word: str) -> str:
    """One word of a setting (systemd.syntax(7)); in a command line `$` is to be doubled besides."""
    word = escaped(word)
    if re.fullmatch(r"[\w@%+=:,./-]+", word):
        return word
    for char, instead in (("\\", "\\\\"), ('"', '\\"'), ("\n", "\\n")):
        word = word.replace(char, instead)
    return f'"{word}"'
