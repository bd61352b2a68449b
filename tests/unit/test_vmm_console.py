"""What a console's lines speak of, and that nothing of a guest reaches a terminal but text."""

import errno
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guestforge.vmm import console
from guestforge.vmm.console import Console, clean
from guestforge.vmm.faults import TABLE, classify


@pytest.fixture
def log(tmp_path):
    return tmp_path / "console.log"


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("[    1.9] __vm_enough_memory: pid: 1, comm: init, bytes: 33554432 not enough memory for the al", "no-memory"),
        ("fatal error: out of memory allocating heap arena map", "no-memory"),
        ("fatal error: runtime: out of memory", "no-memory"),
        ("fatal error: failed to reserve page summary memory", "no-memory"),
        ("fatal error: runtime: cannot allocate memory", "no-memory"),
        ("[    3.0] Out of memory: Killed process 77 (agent) total-vm:12kB, anon-rss:4kB", "no-memory"),
        ("[    3.0] Kernel panic - not syncing: System is deadlocked on memory", "no-memory"),
        ("[    0.0] Kernel panic - not syncing: memblock_alloc_or_panic: Failed to allocate 65536 bytes", "no-memory"),
        ("[    0.5] Initramfs unpacking failed: write error", "no-memory"),
        ("[    1.390508] Kernel panic - not syncing: Attempted to kill init! exitcode=0x00000300", "panic"),
        ("agent: bye[    1.39] Kernel panic - not syncing: x", "panic"),
        ("[    1.0] VFS: Unable to mount root fs on unknown-block(0,0)", "no-init"),
        ("[    1.0] Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)", "no-init"),
        ('[    1.0] VFS: Cannot open root device "/dev/vda1" or unknown-block(0,0): error -6', "no-init"),
        ("[    1.0] Kernel panic - not syncing: No working init found.  Try passing init= option", "no-init"),
        ("[    1.0] Failed to execute /init (error -2)", "no-init"),
        ("[    1.0] Kernel panic - not syncing: Requested init /nonexistent failed (error -2).", "no-init"),
        ("[    0.5] Initramfs unpacking failed: invalid magic at start of compressed archive", "no-init"),
        ("[    2.0] BUG: kernel NULL pointer dereference, address: 0000000000000008", "oops"),
        ("[    2.0] Oops: Oops: 0002 [#1] SMP NOPTI", "oops"),
        ("[    2.0] kernel BUG at fs/ext4/inode.c:123!", "oops"),
        ("[    2.0] general protection fault, probably for non-canonical address 0xdead: 0000 [#1] SMP", "oops"),
        ("[    2.0][    T1] Unable to handle kernel paging request at virtual address ffff8000", "oops"),
        ("[    2.0] Internal error: Oops: 0000000096000004 [#1] SMP", "oops"),
        ("[    2.0] Oops: Kernel access of bad area, sig: 11 [#1]", "oops"),
        ("[    2.0] Unable to handle kernel pointer dereference in virtual kernel address space", "oops"),
        ("[    2.0] illegal operation: 0001 ilc:1 [#1] SMP ", "oops"),
        ("BUG: KASAN: slab-out-of-bounds in f+0x1/0x2", "oops"),
        ("[   30.0] watchdog: BUG: soft lockup - CPU#0 stuck for 22s! [init:1]", "lockup"),
        ("[   30.0] rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:", "lockup"),
        ("[   30.0] rcu: INFO: rcu_sched self-detected stall on CPU", "lockup"),
        ("[  122.0] INFO: task init:1 blocked for more than 120 seconds.", "lockup"),
        ("[    1.6] WARNING: CPU: 0 PID: 1 at kernel/x.c:1 f+0x1/0x2", "warning"),
        ("[    1.6][    T1] WARNING: possible circular locking dependency detected", "warning"),
        ("WARNING: CPU: 0 PID: 1 at kernel/x.c:1", "warning"),
        ("[    1.6] UBSAN: array-index-out-of-bounds in x.c:1:2", "warning"),
        ("( 700 ) Program Exception [ 0 ]", "firmware"),
    ],
)
def test_line_that_no_healthy_guest_prints_is_known(line, kind):
    assert classify(line) == kind


@pytest.mark.parametrize(
    "line",
    [
        "[    0.000000] Linux version 6.12.117 (x) #1",
        "[    0.0] Kernel command line: console=ttyS0 panic=-1 oops=panic",
        '{"level":"warn","msg":"unknown parameter WARNING: x"}',
        "[    0.1] rcu: Hierarchical RCU implementation.",
        "[    0.1] NMI watchdog: Enabled.",
        "[    0.1] x86/fpu: x87 FPU will use FXSAVE",
        "[    0.1] Spectre V2 : WARNING-free",
        "[    0.1] Debug: oops_limit=1",
        "[    0.1] random: crng init done",
        "[    1.0] Run /init as init process",
        "[    1.0] Memory cgroup out of memory: Killed process 77 (sh) total-vm:12kB",
        "[    1.0] __vm_enough_memory: pid: 17, comm: sh, bytes: 33554432 not enough memory for the allocation",
        "[    1.0] debug: BUGS: none",
        "",
    ],
)
def test_healthy_line_is_no_fault(line):
    assert classify(line) is None


# What a container may have the kernel say: by the name of a task, by a program's path; and what an agent's log quotes.
SAID = (
    "WARNING: x",
    "BUG: x",
    "kernel BUG at ",
    "Oops: x",
    "UBSAN: x",
    "Internal error:",
    "aa: 0000 b[#1]",
    "[1.0] BUG: ",
)
BY_NAME = (
    "{} invoked oom-killer: gfp_mask=0xcc0(GFP_KERNEL), order=0, oom_score_adj=0",
    "{}[123]: segfault at 0 ip 0000000000401000 sp 00007ffd error 4 in x[401000+1000]",
    "{}[123]: unhandled signal 11 code 0x1 at 0x0000000000000000",
    "{}: page allocation failure: order:0, mode:0xcc0(GFP_KERNEL), nodemask=(null)",
    "{} (123): drop_caches: 3",
    "{}) total-vm:12kB, anon-rss:4kB, file-rss:0kB, shmem-rss:0kB",  # a name with a line break in it, from there on
    "{},pid=77,uid=0",
    "{} Not tainted 6.12.117 #1",
    "{}",
    "traps: {}[123] trap invalid opcode ip:401000 sp:7ffd error:0 in x[401000+1000]",
    "Memory cgroup out of memory: Killed process 77 ({}) total-vm:12kB",
    "process '/{}' started with executable stack",
    "cgroup: fork rejected by pids controller in /{}",
)


@pytest.mark.parametrize("form", BY_NAME)
@pytest.mark.parametrize("said", SAID)
def test_the_name_of_a_task_is_not_the_kernels_word(said, form):
    assert classify("[   12.345678] " + form.format(said)) is None
    assert classify("[   12.345678][   T12] " + form.format(said)) is None


@pytest.mark.parametrize(
    "text", ["Kernel panic - not syncing: x", "[    1.0] BUG: x", "Out of memory: Killed process 1"]
)
def test_what_a_path_or_an_agents_log_quotes_is_not_the_kernels_word(text):
    assert classify(f"[   12.3] process '/{text}' started with executable stack") is None
    assert classify(f'time=2026-01-01T00:00:00Z level=ERROR msg="a hook failed" error="{text}"') is None
    assert classify(f'{{"msg":"{text}","level":"WARN"}}') is None


@pytest.mark.parametrize("escape", ["\x1b", "\x1b[", "\x1b]", "\x1bP", "\x9b", "\x9d"])
@pytest.mark.parametrize("form", BY_NAME)
def test_an_escape_in_a_name_takes_none_of_the_kernels_words_with_it(form, escape):
    line = clean(f"[   12.345678] {form.format('WARNING: x' + escape)}".encode())
    assert classify(line) is None
    assert line.endswith(form.rpartition("{}")[2])


@given(st.sampled_from(SAID), st.text(max_size=15), st.sampled_from(BY_NAME))
def test_no_task_has_a_name_that_ends_a_healthy_run(said, more, form):
    assert classify(clean(f"[   12.345678] {form.format((said + more)[:15])}".encode())) is None


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"\x1b[31mred\x1b[0m", "red"),
        (b"\x1b]0;title\x07after", "after"),
        (b"\x1b]8;;http://x\x1b\\link", "link"),
        (b"\x1bPq#0\x1b\\sixel", "sixel"),
        (b"\x1b]0;never ended", ""),
        (b"\x1bcreset", "reset"),
        (b"\x1b(Bset", "set"),
        (b"\x1b[1;2", "1;2"),
        (b"a\x08b\x00c\x7f", "a�b�c�"),
        (b"\xff\xfe", "��"),
        ("a\u009b31mb\u202ec".encode(), "a�31mb�c"),
        (b"a\tb", "a    b"),
    ],
)
def test_terminal_sequences_are_taken_out(data, text):
    assert clean(data) == text


@given(st.binary() | st.text().map(str.encode))
def test_no_bytes_raise_or_pass_a_control_character(data):
    text = clean(data)
    assert text.isprintable()
    assert classify(text) in (None, *(row.kind for row in TABLE))


ESCAPES = st.sampled_from(
    [b"\x1b", b"\x1b[", b"\x1b]0;", b"\x07", b"\x1b\\", b"31m", b"\n", b"\r\n", b"Kernel panic", b"\xc3"]
)


@given(st.lists(ESCAPES | st.binary(max_size=8), max_size=40), st.data())
def test_lines_do_not_depend_on_how_the_bytes_arrive(parts, data):
    whole = b"".join(parts)
    at = data.draw(st.integers(0, len(whole)))
    one, two = Console(None), Console(None)
    one.feed(whole)
    one.close()
    for part in (whole[:at], whole[at:]):
        two.feed(part)
    two.close()
    assert one.lines() == two.lines()
    assert all(line.isprintable() for line in one.lines())


def test_fault_is_found_at_its_line_break_with_what_is_around(log):
    watched = Console(log)
    watched.feed(b"".join(b"before %d\n" % n for n in range(10)) + b"[ 1.0] Kernel panic - not sync")
    assert watched.faults == []
    watched.feed(b"ing: x\r\ntrace 1\r\ntrace 2\r\n")
    assert [fault.kind for fault in watched.faults] == ["panic"]
    excerpt = watched.excerpt(watched.faults[0]).splitlines()
    assert excerpt[0] == "before 4"
    assert excerpt[-3:] == ["[ 1.0] Kernel panic - not syncing: x", "trace 1", "trace 2"]


def test_excerpt_of_a_late_line_is_right_when_old_ones_are_gone():
    watched = Console(None)
    watched.feed(b"line\n" * (console.HEAD_LINES + console.TAIL_LINES + 50))
    watched.feed(b"WARNING: CPU: 0 PID: 1\n" + b"after\n" * 3)
    assert watched.excerpt(watched.faults[0]).splitlines()[-4:] == ["WARNING: CPU: 0 PID: 1", "after", "after", "after"]
    watched.feed(b"more\n" * console.TAIL_LINES)
    assert watched.excerpt(watched.faults[0]) == "WARNING: CPU: 0 PID: 1"


def test_memory_is_bounded_and_first_and_last_lines_stay():
    watched = Console(None)
    watched.feed(b"first\n")
    for _ in range(100):
        watched.feed(b"WARNING: CPU: 0 PID: 1\n" * 1000)
    watched.feed(b"x" * 1_000_000)
    watched.feed(b"\nlast\n")
    assert len(watched.lines()) == console.HEAD_LINES + console.TAIL_LINES
    assert len(watched.faults) == console.MAX_FAULTS
    assert max(len(line) for line in watched.lines()) <= console.MAX_LINE
    assert watched.find("first") == "first"
    assert watched.tail(1) == "last"


def test_log_has_every_byte(log):
    watched = Console(log)
    data = bytes(range(256)) * 10
    watched.feed(data)
    watched.close()
    assert log.read_bytes() == data


def test_log_stops_at_its_limit_and_says_so(log, monkeypatch):
    monkeypatch.setattr(console, "MAX_LOG", 100)
    watched = Console(log)
    watched._room = 100
    for _ in range(10):
        watched.feed(b"x" * 49 + b"\n")
    watched.close()
    data = log.read_bytes()
    assert data.endswith(console.CUT)
    assert len(data) == 100 + len(console.CUT)


def test_log_of_before_is_not_kept(log):
    log.write_text("old")
    Console(log).close()
    assert log.read_bytes() == b""


def test_log_on_a_full_disk_is_noticed_and_lines_are_still_read():
    watched = Console(Path("/dev/full"))
    assert watched.feed(b"WARNING: CPU: 0 PID: 1\n") == ["WARNING: CPU: 0 PID: 1"]
    assert watched.log_error.errno == errno.ENOSPC
    assert watched.feed(b"y\n") == ["y"]
    watched.close()
