"""Photographs among Debian's wallpapers: which they are, and where this machine has them or can get them.

Most wallpapers are drawn or rendered: smooth, small once compressed, and fast to decode. Below stand all that are
photographs in the wallpaper packages of Debian 12; ``gnome-backgrounds`` and ``ukui-wallpapers`` hold none.
"""

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tools.shards.debian import reason_of, unpacked_package

MACHINE = Path("/")
_PLASMA = "BytheWater ColdRipple ColorfulCups DarkestHour EveningGlow FallenLeaf Grey Kite OneStandsOut Path summer_1am"
_MATE = "Aqua Blinds Dune FreshFlower Garden GreenMeadow LadyBird RainDrops Storm TwoWings Wood YellowFlower"
_LOMIRI = (
    "Bridge_by_Sander_Klootwijk Dragonfly_by_Bolly Picture_0B_by_freespace Picture_1A_by_freespace "
    "Wine_by_Jakkub_Mede aitzgorri_by_Aitzol_Berasategi free_by_Peter_Nerlich friends_by_Aitzol_Berasategi "
    "greentock_by_Peter_Nerlich life_by_Aitzol_Berasategi picosdeeuropa_by_Aitzol_Berasategi "
    "seeding_by_Clements_Engelhardt sunset_by_Aitzol_Berasategi"
)
# Package -> where a picture is in it, and the pictures' names.
PHOTOGRAPHS = {
    "lomiri-wallpapers-16.04": ("usr/share/backgrounds/{}.jpg", _LOMIRI.split()),
    "lomiri-wallpapers-20.04": ("usr/share/backgrounds/{}.jpg", ["Kleiber_by_Lukas_Baubkus"]),
    "mate-backgrounds": ("usr/share/backgrounds/mate/nature/{}.jpg", _MATE.split()),
    "plasma-workspace-wallpapers": ("usr/share/wallpapers/{}/contents/images/2560x1600.jpg", _PLASMA.split()),
}


@dataclass(frozen=True)
class Picture:
    """name: ``package/name``, by which its windows are drawn. path: the file, in any format that Pillow reads."""

    name: str
    path: Path


def find_photographs(cache: Path) -> list[Picture]:
    """All of ``PHOTOGRAPHS`` that the packages hold, in its order.

    Each package is looked for in this order: installed on this machine; unpacked in ``cache`` by an earlier call;
    fetched by apt-get, for which nobody needs to be root.

    Raises FileNotFoundError with what was tried and why it failed.
    """
    return [picture for package in PHOTOGRAPHS for picture in _package_photographs(package, cache)]


def _package_photographs(package: str, cache: Path) -> list[Picture]:
    unpacked = cache / package
    for root in (MACHINE, unpacked):
        if found := _pictures_below(root, package):
            return found
    try:
        with unpacked_package(package, cache) as fetched:
            shutil.rmtree(unpacked, ignore_errors=True)
            fetched.rename(unpacked)
    except (OSError, subprocess.SubprocessError) as error:
        raise FileNotFoundError(
            f"{package}: its pictures are neither on this machine nor in {unpacked}, and apt-get download failed: "
            f"{reason_of(error)}. Install it (apt-get install {package}), or unpack it into {unpacked} "
            f"(dpkg-deb -x {package}_*.deb {unpacked})"
        ) from error
    if found := _pictures_below(unpacked, package):
        return found
    raise FileNotFoundError(f"{unpacked}: the package {package} holds none of the photographs that are known of it")


def _pictures_below(root: Path, package: str) -> list[Picture]:
    place, names = PHOTOGRAPHS[package]
    pictures = [Picture(f"{package}/{name}", root / place.format(name)) for name in names]
    return [picture for picture in pictures if picture.path.is_file()]
