"""The learner as a systemd unit, as text: covey-learn.service and the path that starts it. Pure.

It is idle until the agent leaves a request in its state folder: no process, no memory. It runs as the agent's user, for
the ring is that user's alone; it may reach the network and write its own folder in the state, and nothing else. It does
not start again by itself: one request, one run. Flower's ClientApps compile nothing, but load what the installed package
names; so the limits are the agent's (edge/unit.py), with more memory.

Source: systemd.exec(5), systemd.path(5), systemd.resource-control(5).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

SERVICE = "covey-learn.service"
PATH = "covey-learn.path"
_HIDDEN = ("/home", "/root", "/run/user", "/tmp", "/var/tmp")  # noqa: S108  # names, not files


@dataclass(frozen=True)
class UnitPlan:
    """All that the two files depend on."""

    command: tuple[str, ...]  # starts `covey`
    user: str = "covey"
    state: str = "/var/lib/covey"
    key: str = "/etc/covey/node.key"
    ca: str = "/etc/covey/superlink-ca.pem"
    trusted: tuple[str, ...] = ()  # public keys of signers
    memory_bytes: int = 768 * 1024 * 1024  # SuperNode 140, its launcher 130, a ClientApp 150 to 250 MB
    cpu_percent: int = 100  # of one core
    deadline_s: int = 3600
    code: tuple[str, ...] = ()  # folders that Python and covey are in


def service_text(plan: UnitPlan) -> str:
    """covey-learn.service."""
    words = [*plan.command, "federated", "join", "--request", f"{plan.state}/learn.json"]
    words += ["--ring", f"{plan.state}/ring.bin", "--home", f"{plan.state}/learn", "--ca", plan.ca]
    words += ["--key", "${CREDENTIALS_DIRECTORY}/node_key", "--deadline-s", str(plan.deadline_s), "--nice", "0"]
    for one in plan.trusted:
        words += ["--trusted", one]
    command = " ".join(
        word if word.startswith("${CREDENTIALS_DIRECTORY}") else _quoted(word).replace("$", "$$") for word in words
    )
    seen = [one for one in (*plan.code, plan.ca, *plan.trusted) if one.startswith(_HIDDEN)]
    lines = [
        "# Written by `covey federated install`; for changes of your own, `systemctl edit covey-learn.service`.",
        "[Unit]",
        "Description=covey learner: takes part in one run of learning",
        "After=network-online.target",
        "",
        "[Service]",
        "Type=exec",
        f"ExecStart={command}",
        f"User={plan.user}",
        f"LoadCredential=node_key:{_quoted(plan.key)}",
        "Restart=no",
        f"RuntimeMaxSec={plan.deadline_s + 60}",
        "TimeoutStopSec=20",
        "KillMode=control-group",  # its launcher and every ClientApp, whatever group they are in
        "Environment=OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 FLWR_TELEMETRY_ENABLED=0 FLWR_DISABLE_UPDATE_CHECK=1",
        "Nice=15",
        "CPUSchedulingPolicy=batch",
        "IOSchedulingClass=idle",
        f"MemoryMax={plan.memory_bytes}",
        "MemorySwapMax=0",
        f"CPUQuota={plan.cpu_percent}%",
        "CPUWeight=5",
        "IOWeight=5",
        "OOMScoreAdjust=800",  # before the agent, which has 500
        "TasksMax=128",
        "LimitCORE=0",  # a dump would hold windows
        "ProtectSystem=strict",
        f"ReadWritePaths={_quoted(plan.state)}",
        "ProtectHome=tmpfs",
        *[f"BindReadOnlyPaths={_quoted(one)}" for one in seen],
        "PrivateTmp=yes",
        "PrivateDevices=yes",
        "DevicePolicy=closed",
        "UMask=0077",
        "NoNewPrivileges=yes",
        "CapabilityBoundingSet=",
        "AmbientCapabilities=",
        "RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX",
        "RestrictNamespaces=yes",
        "RestrictRealtime=yes",
        "RestrictSUIDSGID=yes",
        "LockPersonality=yes",
        "ProtectClock=yes",
        "ProtectControlGroups=yes",
        "ProtectHostname=yes",
        "ProtectKernelLogs=yes",
        "ProtectKernelModules=yes",
        "ProtectKernelTunables=yes",
        "SystemCallArchitectures=native",
        "SystemCallFilter=@system-service",
        "SystemCallErrorNumber=EPERM",
    ]
    return "\n".join(lines) + "\n"


def path_text(plan: UnitPlan) -> str:
    """covey-learn.path: a request that is put in place, by a rename, starts the service."""
    lines = [
        "# Written by `covey federated install`.",
        "[Unit]",
        "Description=covey learner: waits for the agent's request",
        "",
        "[Path]",
        f"PathChanged={plan.state}/learn.json",  # not PathExists: a request that cannot be taken would start it for ever
        f"Unit={SERVICE}",
        "",
        "[Install]",
        "WantedBy=multi-user.target",
    ]
    return "\n".join(lines) + "\n"


def _quoted(word: str) -> str:
    """One word of a setting (systemd.syntax(7))."""
    word = word.replace("%", "%%")
    if re.fullmatch(r"[\w@%+=:,./-]+", word):
        return word
    for char, instead in (("\\", "\\\\"), ('"', '\\"'), ("\n", "\\n")):
        word = word.replace(char, instead)
    return f'"{word}"'
