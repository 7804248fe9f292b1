"""The script that `run_code` starts: it locks a program up, waits for it, and leaves nothing of it behind.

It runs as `python -I -S guard.py LIMITS`, in a session of its own, on Linux, with the standard library only. There are three
processes: the guard, the keeper (the first of a process namespace where the kernel allows one) and the program.
"""

import ctypes
import json
import os
import resource
import signal
import struct
import sys

HARNESS = """
import json, os, sys

def main(run=exec, write=os.write, leave=os._exit):
    job = json.load(sys.stdin)
    space = {"__name__": "answer"}
    for part in [compile(job.pop(name), name, "exec") for name in ("code", "tests")]:
        run(part, space)
    sys.stdout.flush()
    write(1, job["token"].encode())
    leave(0)

main()
"""
"""Runs code and tests in one space; only what comes to the end of the tests prints the token."""

NOBODY = 65534
PR_SET_PDEATHSIG, PR_CAPBSET_DROP, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 1, 24, 36, 38
NEWNS, NEWIPC, NEWUSER, NEWPID, NEWNET = 0x00020000, 0x08000000, 0x10000000, 0x20000000, 0x40000000
MOUNT_SETATTR, AT_RECURSIVE, ATTR_RDONLY, MS_PRIVATE = 442, 0x8000, 1, 1 << 18  # the system call has this number everywhere
SCRATCH_FILES = 16
libc = ctypes.CDLL(None)


def guard(limits: dict[str, int]) -> int:
    """Runs the program under `limits`; its exit code, or 128 + the signal that ended it."""
    user = NOBODY if os.geteuid() == 0 and _nobody_can_run() else os.geteuid()
    # the kernel counts all tasks of the user (and, for root, none)
    limits["tasks"] = _tasks_of(user) + limits["processes"]
    _unshare()
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)  # last: a change of user or capabilities takes it back
    keeper = os.fork()
    if keeper == 0:
        os._exit(_keep(limits, user))
    return _exit_code(os.waitpid(keeper, 0)[1])


def _keep(limits: dict[str, int], user: int) -> int:
    """The keeper: every orphan becomes its child, so nothing gets away by forking twice; they die when the program ends."""
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    alone = os.getpid() == 1  # in a process namespace of our own, and so in all the others
    if alone:
        _close_file_system(SCRATCH_FILES * limits["output"])
    program = os.fork()
    if program == 0:
        _become_program(limits, user)
    while True:
        pid, status = os.wait()
        if pid == program:
            break
    if not alone:  # else the keeper's end is the end of all
        _kill_children()
    return _exit_code(status)


def _become_program(limits: dict[str, int], user: int) -> None:
    os.setpgid(0, 0)
    for capability in range(64):
        libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)
    if os.geteuid() == 0 and user == NOBODY:
        os.chown(".", NOBODY, NOBODY)
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
    libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    _limit(resource.RLIMIT_CPU, limits["cpu_s"])
    _limit(resource.RLIMIT_AS, limits["memory"])
    _limit(resource.RLIMIT_FSIZE, limits["output"])
    _limit(resource.RLIMIT_NPROC, limits["tasks"])
    _limit(resource.RLIMIT_NOFILE, 64)
    _limit(resource.RLIMIT_CORE, 0)
    os.execv(sys.executable, [sys.executable, "-I", "-S", "-B", "-X", "utf8", "-c", HARNESS])


def _unshare() -> None:
    """Namespaces of our own for network, processes, mounts and IPC, all or none; a plain user needs one for users, too."""
    user, group = os.geteuid(), os.getegid()
    flags = NEWPID | NEWNET | NEWNS | NEWIPC | (NEWUSER if user else 0)
    if libc.unshare(flags) == 0 and user:
        for name, text in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
            with open(f"/proc/self/{name}", "w") as file:
                file.write(text)


def _close_file_system(scratch: int) -> None:
    """All mounts read-only (Linux 5.12), /proc without the processes outside, and `scratch` bytes of memory as the folder.

    Only in a mount namespace of our own! The mounts are made private in the same call, and only then is anything mounted.
    """
    attributes = struct.pack("QQQQ", ATTR_RDONLY, 0, MS_PRIVATE, 0)
    if libc.syscall(MOUNT_SETATTR, -1, b"/", AT_RECURSIVE, attributes, len(attributes)) == 0:
        folder = os.getcwd()
        libc.mount(b"proc", b"/proc", b"proc", 0, None)
        libc.mount(b"tmpfs", folder.encode(), b"tmpfs", 0, f"size={scratch},nr_inodes=1k,mode=700".encode())
        os.chdir(folder)


def _limit(kind: int, most: int) -> None:
    hard = resource.getrlimit(kind)[1]
    most = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(kind, (most, most))


def _nobody_can_run() -> bool:
    """Whether the interpreter and its library lie where everybody may read."""
    os.seteuid(NOBODY)
    try:
        for path in (sys.executable, os.__file__, resource.__file__):
            open(path, "rb").close()
        return True
    except OSError:
        return False
    finally:
        os.seteuid(0)


def _tasks_of(user: int) -> int:
    """Processes and threads of `user`."""
    tasks = 0
    for name in os.listdir("/proc"):
        try:
            if name.isdigit() and os.stat(f"/proc/{name}").st_uid == user:
                tasks += len(os.listdir(f"/proc/{name}/task"))
        except OSError:  # it ended meanwhile
            pass
    return tasks


def _kill_children() -> None:
    path = f"/proc/self/task/{os.getpid()}/children"
    while os.path.exists(path):
        with open(path) as file:
            children = [int(pid) for pid in file.read().split()]
        if not children:
            return
        for child in children:
            os.kill(child, signal.SIGKILL)
        for child in children:
            os.waitpid(child, 0)


def _exit_code(status: int) -> int:
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    os._exit(guard(json.loads(sys.argv[1])))
