"""What a board's kernel tells in files: temperatures, fans, rails, GPU load, power mode. Reads only; a file that fails is no reading.

Covers what tegrastats shows on a Jetson (thermal zones, GPU load, INA3221 rails, nvpmodel's mode), and the same classes on other boards.

Source: Linux Documentation/hwmon/sysfs-interface.rst and driver-api/thermal; NVIDIA Jetson Linux Developer Guide, "Power and Performance".
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from pathlib import Path

_GPU_LOADS = (  # 0 to 1000
    "sys/devices/gpu.0/load",
    "sys/devices/platform/gpu.0/load",
    "sys/devices/platform/*.gpu/load",
    "sys/devices/platform/bus@0/*.gpu/load",
)
_MODE = "var/lib/nvpmodel/status"  # "pmode:0002"
_NAME = re.compile(r"[^a-z0-9]+")


class Probe(NamedTuple):
    """One value: the product of its files, times a factor (a rail's power is voltage times current)."""

    channel: str
    files: tuple[Path, ...]
    scale: float

    def read(self) -> float | None:
        """The value now; None where a file fails or holds no number."""
        value = self.scale
        try:
            for file in self.files:
                value *= float(file.read_bytes()[:64].rpartition(b":")[2])
        except (OSError, ValueError):
            return None
        return value


def probes(root: Path) -> list[Probe]:
    """What there is under `root` ("/" on a board): each channel once."""
    found = [*_thermal(root), *_hwmon(root), *_old_rails(root), *_gpu(root)]
    mode = root / _MODE
    if mode.is_file():
        found.append(Probe("system.power_mode", (mode,), 1.0))
    names: dict[str, int] = {}
    out = []
    for probe in found:
        count = names[probe.channel] = names.get(probe.channel, 0) + 1
        out.append(probe if count == 1 else probe._replace(channel=f"{probe.channel}.{count}"))
    return out


def _thermal(root: Path) -> list[Probe]:
    zones = sorted(root.glob("sys/class/thermal/thermal_zone*"), key=_natural)
    return [Probe(f"system.temp.{_word(_text(zone / 'type'), zone.name)}", (zone / "temp",), 1e-3) for zone in zones]


def _hwmon(root: Path) -> list[Probe]:
    out = []
    for chip in sorted(root.glob("sys/class/hwmon/hwmon*"), key=_natural):
        name = _word(_text(chip / "name"), chip.name)
        # Thermal zones show themselves a second time here.
        zones = (chip / "device").is_dir() and (chip / "device" / "policy").is_file()
        temperatures = [] if zones else sorted(chip.glob("temp*_input"), key=_natural)
        out += [Probe(f"system.temp.{name}.{_label(file)}", (file,), 1e-3) for file in temperatures]
        fans = sorted(chip.glob("fan*_input"), key=_natural)
        out += [Probe(f"system.fan.{name}.{_label(file)}", (file,), 1.0) for file in fans]
        for file in sorted(chip.glob("in*_input"), key=_natural):
            rail = _label(file)
            current = file.with_name(file.name.replace("in", "curr", 1))
            if current.is_file():
                out.append(Probe(f"system.power.{rail}", (file, current), 1e-6))  # mV x mA
                out.append(Probe(f"system.voltage.{rail}", (file,), 1e-3))
                out.append(Probe(f"system.current.{rail}", (current,), 1e-3))
        watts = sorted(chip.glob("power*_input"), key=_natural)
        out += [Probe(f"system.power.{_label(file)}", (file,), 1e-6) for file in watts]  # uW
    return out


def _old_rails(root: Path) -> list[Probe]:
    """JetPack 4: INA3221 by its own driver."""
    out = []
    for device in sorted(root.glob("sys/bus/i2c/drivers/ina3221x/*/iio:device*"), key=_natural):
        for file in sorted(device.glob("in_power*_input"), key=_natural):
            number = file.name.removeprefix("in_power").removesuffix("_input")
            rail = _word(_text(device / f"rail_name_{number}"), number)
            out.append(Probe(f"system.power.{rail}", (file,), 1e-3))  # mW
    return out


def _gpu(root: Path) -> list[Probe]:
    loads = [file for pattern in _GPU_LOADS for file in sorted(root.glob(pattern))]
    if loads:  # several paths to one GPU
        return [Probe("system.gpu", (loads[0],), 0.1)]
    cards = sorted(root.glob("sys/class/drm/card*/device/gpu_busy_percent"), key=_natural)
    return [Probe("system.gpu", (file,), 1.0) for file in cards]


def _label(file: Path) -> str:
    number = file.name.removesuffix("_input")
    return _word(_text(file.with_name(f"{number}_label")), number)


def _word(text: str, otherwise: str) -> str:
    return _NAME.sub("-", text.lower()).strip("-") or _NAME.sub("-", otherwise.lower()).strip("-")


def _text(file: Path) -> str:
    try:
        return file.read_bytes()[:64].decode("utf-8", errors="replace").strip()
    except OSError:
        return ""


def _natural(path: Path) -> list[int | str]:
    """zone10 behind zone9."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path.as_posix())]
