"""Real configurations of the real tree, from the user's cache (fetched where it is not there)."""

import pytest

from guestforge.arch import ARCHES
from guestforge.core.errors import BuildError
from guestforge.core.graph import Evaluation
from guestforge.core.run import run
from guestforge.core.runtime import HOST
from guestforge.core.store import Store
from guestforge.kernel.configure import configure
from guestforge.kernel.dotconfig import read_dotconfig
from guestforge.kernel.fragment import Request, compose
from guestforge.kernel.make import Make, configure_argv
from guestforge.kernel.toolchain import identify
from guestforge.kernel.verify import dropped, verify
from guestforge.project.load import load_kernel
from guestforge.sources.kernel_tree import TREE
from guestforge.sources.linux import source_step
from guestforge.sources.resolution import Archive

pytestmark = pytest.mark.slow
RECIPE = load_kernel("default")


@pytest.fixture(scope="module")
def tree():
    store = Store()
    return Evaluation(store).entry(source_step(Archive(store), RECIPE.source)).path / TREE


def final_config(tree, path, arch, requests, base="allnoconfig"):
    configure(Make(arch, tree, path, 0, HOST), base, requests, identify(path, arch, HOST), path / "log")
    return read_dotconfig(path / ".config")


@pytest.mark.parametrize("arch", ARCHES.values(), ids=ARCHES)
def test_the_default_kernel_gets_every_option_it_asks_for(tree, tmp_path, arch):
    requests = compose(RECIPE.fragments, arch.name)
    assert dropped(requests, final_config(tree, tmp_path, arch, requests)) == []


def test_olddefconfig_has_nothing_to_add_to_a_base_that_takes_the_request(tree, tmp_path):
    arch = ARCHES["x86_64"]
    config = final_config(tree, tmp_path, arch, compose(RECIPE.fragments, arch.name))
    run(configure_argv(Make(arch, tree, tmp_path, 0, HOST), "olddefconfig"))
    assert read_dotconfig(tmp_path / ".config") == config


@pytest.mark.parametrize("base", ["defconfig", "tinyconfig"])
def test_the_other_bases_take_the_request_too(tree, tmp_path, base):
    arch = ARCHES["x86_64"]
    whole = compose(RECIPE.fragments, arch.name)
    # tinyconfig turns EXPERT on, which selects DEBUG_KERNEL
    requests = tuple(request for request in whole if request.option != "CONFIG_DEBUG_KERNEL")
    assert dropped(requests, final_config(tree, tmp_path, arch, requests, base)) == []


def test_virtio_fs_without_fuse_fails_and_names_it(tree, tmp_path):
    arch = ARCHES["x86_64"]
    whole = compose(RECIPE.fragments, arch.name)
    without = tuple(request for request in whole if request.option != "CONFIG_FUSE_FS")
    config = final_config(tree, tmp_path, arch, without)
    with pytest.raises(BuildError, match="CONFIG_VIRTIO_FS") as caught:
        verify(without, config, tree, arch.kernel_arch)
    wanted = next(request for request in whole if request.option == "CONFIG_VIRTIO_FS")
    assert f"{wanted.place}: CONFIG_VIRTIO_FS: wanted y, got n" in caught.value.excerpt
    assert "fs/fuse/Kconfig" in caught.value.excerpt
    assert "not set: FUSE_FS" in caught.value.excerpt


def test_an_option_that_no_kernel_has_is_named(tree, tmp_path):
    arch = ARCHES["x86_64"]
    requests = (*compose(RECIPE.fragments, arch.name), Request("CONFIG_NO_SUCH_THING", "y", "f.conf", 1))
    with pytest.raises(BuildError, match=r"ask for: CONFIG_NO_SUCH_THING$") as caught:
        verify(requests, final_config(tree, tmp_path, arch, requests), tree, arch.kernel_arch)
    assert "no Kconfig file of this kernel defines it" in caught.value.excerpt
