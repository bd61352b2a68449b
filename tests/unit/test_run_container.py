"""What `run --oci` makes of an image and of what a user asks for, before there is a guest."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guestforge.cli.container import MAX_VOLUMES, Volume, container_of, environment, parse_volume
from guestforge.cli.interactive import run
from guestforge.core.errors import UserError
from guestforge.oci.image import Image, User
from guestforge.project.options import ContainerOptions, DebugOptions, TerminalOptions

IMAGE = Image(
    Path("/image"), "sha256:1", ("/bin/server", "--serve"), {"PATH": "/bin", "LANG": "C"}, "/srv", User(7, 8, (9, 10))
)


def spec_of(*, image=IMAGE, volumes=(), terminal=False, **wanted):
    return container_of(image, ContainerOptions(oci="image", **wanted), volumes, has_terminal=terminal)


def test_the_images_own_program_is_run_as_the_image_says():
    process = spec_of().Process
    assert list(process.Args) == ["/bin/server", "--serve"]
    assert (process.Cwd, process.User.UID, process.User.GID) == ("/srv", 7, 8)
    assert list(process.User.AdditionalGids) == [9, 10]
    assert list(process.Env) == ["PATH=/bin", "LANG=C"]
    assert not process.Terminal
    assert not process.NoNewPrivileges


def test_a_user_has_another_program_run_and_sets_its_limits():
    spec = spec_of(command=("sh", "-c", "a b"), env=("LANG=de", "X=1=2"), memory=64 << 20, cpus=1.5)
    assert list(spec.Process.Args) == ["sh", "-c", "a b"]
    assert list(spec.Process.Env) == ["PATH=/bin", "LANG=de", "X=1=2"]
    assert spec.Linux.Resources.Memory.Limit == 64 << 20
    assert spec.Linux.Resources.CPU.Quota == 150_000


def test_an_image_without_a_program_wants_one():
    with pytest.raises(UserError, match="names no program"):
        spec_of(image=Image(Path("/image"), "sha256:1", (), {}, "/", User(0, 0)))


def test_a_terminal_is_told_what_it_is(monkeypatch):
    monkeypatch.setenv("TERM", "vt220")
    process = spec_of(terminal=True).Process
    assert process.Terminal
    assert "TERM=vt220" in process.Env


def test_volumes_are_bound_where_the_user_says(tmp_path):
    volumes = (Volume(tmp_path, "/data", read_only=True), Volume(tmp_path, "/work", read_only=False))
    bound = {mount.destination: list(mount.options) for mount in spec_of(volumes=volumes).Mounts}
    assert (bound["/data"], bound["/work"]) == (["rbind", "ro"], ["rbind", "rw"])
    assert volumes[0].share(0).read_only
    assert not volumes[1].share(1).read_only
    assert "/etc/resolv.conf" not in bound
    assert "/etc/resolv.conf" in {mount.destination for mount in spec_of(network="user").Mounts}


def test_a_volume_is_a_folder_and_a_place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert parse_volume(f"{tmp_path}:/data:ro") == Volume(tmp_path, "/data", read_only=True)
    assert parse_volume(".:/data") == Volume(tmp_path, "/data", read_only=False)
    (tmp_path / "file").touch()
    for text in ("", "/data", f"{tmp_path}:data", f"{tmp_path}:/data:rx", f"{tmp_path}/file:/data", "/nowhere:/data"):
        with pytest.raises(UserError, match="--volume"):
            parse_volume(text)


@given(st.text())
def test_any_volume_is_taken_or_refused(text):
    try:
        assert parse_volume(text).target.startswith("/")
    except UserError:
        pass
    except ValueError as e:  # of a path with a NUL, which no command line has
        assert "\0" in text, e


def test_a_name_alone_has_our_value_and_none_that_we_lack(monkeypatch):
    monkeypatch.setenv("OURS", "1")
    monkeypatch.delenv("LACKING", raising=False)
    found = environment({"A": "a"}, ("OURS", "LACKING", "A=b", "EMPTY="))
    assert found["PATH"]
    assert {name: value for name, value in found.items() if name != "PATH"} == {"A": "b", "OURS": "1", "EMPTY": ""}
    with pytest.raises(UserError, match="NAME=VALUE"):
        environment({}, ("=x",))


def test_what_is_for_a_container_wants_an_image():
    for wanted in (ContainerOptions(env=("A=b",)), ContainerOptions(command=("sh",)), ContainerOptions(network="user")):
        with pytest.raises(UserError, match="no image"):
            run(DebugOptions(), TerminalOptions(), wanted)


def test_more_volumes_than_a_guest_takes_are_refused(tmp_path):
    many = ContainerOptions(oci="image", volume=(f"{tmp_path}:/a",) * (MAX_VOLUMES + 1))
    with pytest.raises(UserError, match="at most 8"):
        run(DebugOptions(), TerminalOptions(), many)
