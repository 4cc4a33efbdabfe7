"""Whose a file or folder is: nothing is trusted that another user could have put there, or could put there in time.

On Windows, where neither owner nor mode tells anything, the access list of the user's profile folder is relied upon.
"""

from __future__ import annotations

import os
import stat
import sys
from functools import lru_cache
from pathlib import Path
from shlex import quote

if sys.platform != "win32":
    import grp
    import pwd

_MOST_LINKS = 40  # as Linux has it
_READING = (
    os.O_RDONLY
    | getattr(os, "O_NOFOLLOW", 0)
    | getattr(os, "O_NONBLOCK", 0)  # nobody may ever write into a FIFO of that name
    | getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_BINARY", 0)
)


class NotOwnError(OSError):
    """Somebody else could have made or changed a file or folder that must be this user's alone. `remedy` is the command
    that helps, where this user may give it and needs nothing else."""

    def __init__(self, reason: str, remedy: str = "") -> None:
        super().__init__(reason)
        self.remedy = remedy


class NotRegularError(OSError):
    """What should be a file is a FIFO, a device or a folder."""


def status_if_own(path: Path) -> os.stat_result | None:
    """The `lstat` of what only this user (and root) can have made and changed; None where there is nothing.

    Raises `NotOwnError` otherwise, for symbolic links too. It says nothing of the folders on the way: `check_way`.
    """
    try:
        status = path.lstat()
    except FileNotFoundError:
        return None
    _check_own(path, status)
    return status


def check_way(folder: Path, into: bool = False) -> None:
    """Raise `NotOwnError` where another user could put something else in the place of `folder`, or of one above it; if
    it leads `into` the folder, also of what this user makes there.

    As sshd has it for its keys: of all folders on the way, where links lead too, each must belong to this user or to
    root, and be writable for nobody else, or be sticky, so that all may add to it and nobody may take away. A group
    counts as others, except one that has no member but this user and root, as many distributions give each user one.
    What is not there yet is not looked at.
    """
    if sys.platform == "win32":
        return
    waiting, here, links = list(reversed(folder.absolute().parts)), "", 0  # texts: this is asked at every tile
    trusted = {0, os.getuid(), os.lstat("/").st_uid}  # in some containers root has another number
    while waiting:
        part = waiting.pop()
        if part == os.pardir:
            here = here.rpartition("/")[0]
            continue
        path = "/" if part == "/" else f"{here}/{part}"
        try:
            status = os.lstat(path)
        except FileNotFoundError:
            return
        if status.st_uid not in trusted:
            raise NotOwnError(f"{folder} is not safe from other users: {path} belongs to one")
        if stat.S_ISLNK(status.st_mode):
            links += 1
            if links > _MOST_LINKS:
                raise NotOwnError(f"{folder} leads round in circles of symbolic links")
            waiting += reversed(Path(path).readlink().parts)
            continue
        if (waiting or into) and _others_may_write(path, status):
            reason = f"{folder} is not safe from other users: they may write to {path}, which is not sticky"
            raise NotOwnError(reason, f"chmod go-w {quote(path)}" if status.st_uid == os.getuid() else "")
        here = path.rstrip("/")


def make_own_folder(folder: Path) -> None:
    """Make sure that there is a `folder` of this user's alone, those above it that are missing included, whatever the
    umask. Raises `NotOwnError` where others could reach it, and any `OSError` of making it; nothing is made then."""
    check_way(folder)
    missing = [folder]
    while not missing[-1].parent.exists():
        missing.append(missing[-1].parent)
    for path in reversed(missing):
        try:
            path.mkdir(mode=0o700)
        except FileExistsError:  # before, or just now by another process
            if not path.is_dir():
                raise
    check_way(folder)
    status_if_own(folder)


def open_own(path: Path) -> int:
    """A descriptor of the file `path`, to read, which nobody else can have made or changed; the caller closes it.

    Links are not followed, and nothing is waited for. Raises `FileNotFoundError`, `NotOwnError`, `NotRegularError`, or
    another `OSError`.
    """
    if path.is_symlink():  # where the system cannot refuse them by itself
        raise NotOwnError(f"{path} is a symbolic link")
    file = os.open(path, _READING)
    try:
        status = os.fstat(file)
        check_regular(path, status)
        _check_own(path, status)
    except BaseException:  # an interrupt, too: nobody else closes it
        os.close(file)
        raise
    return file


def read_own(path: Path, most: int) -> bytes:
    """What is in the file `path`, at most so many bytes. Raises what `open_own` raises, and `ValueError` for more."""
    with os.fdopen(open_own(path), "rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise ValueError(f"it has more than {most} bytes")
    return content


def check_regular(path: Path, status: os.stat_result) -> None:
    """Raise `NotRegularError` where the `status` of `path` is that of no file."""
    if not stat.S_ISREG(status.st_mode):
        raise NotRegularError(f"{path} is no regular file")


def _check_own(path: Path, status: os.stat_result) -> None:
    if stat.S_ISLNK(status.st_mode):
        raise NotOwnError(f"{path} is a symbolic link")
    if sys.platform != "win32":
        if status.st_uid != os.getuid():
            raise NotOwnError(f"{path} belongs to another user")
        if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            around = path if stat.S_ISDIR(status.st_mode) else path.parent  # what made it so made its neighbours so
            raise NotOwnError(f"{path} can be written by other users", f"chmod -R go-w {quote(str(around))}")


def _others_may_write(path: str, status: os.stat_result) -> bool:
    if status.st_mode & stat.S_ISVTX or not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return False
    return bool(status.st_mode & stat.S_IWOTH) or _has_access_list(path) or not _is_private(status.st_gid)


def _has_access_list(path: str) -> bool:
    """Whether the group's rights may be some other user's: Linux shows the sum of a list of them in their place."""
    try:
        return sys.platform == "linux" and "system.posix_acl_access" in os.listxattr(path)
    except OSError:  # a file system without any
        return False


if sys.platform != "win32":

    @lru_cache(maxsize=64)  # the system's lists of users may be long
    def _is_private(group: int) -> bool:
        """Whether the group's only members are this user and perhaps root. One without any known is somebody's, too."""
        try:
            names = grp.getgrgid(group).gr_mem
            members = {user.pw_uid for user in pwd.getpwall() if user.pw_gid == group or user.pw_name in names}
        except (KeyError, OSError):
            return False
        unknown = {*names} - {user.pw_name for user in pwd.getpwall()}
        return bool(members) and not unknown and members <= {0, os.getuid()}
