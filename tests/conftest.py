import contextlib
import os
import resource

import pytest
import torch

torch.set_num_threads(1)  # the layers of the tests are tiny
# the same for what the tests start: threads of several processes that wait for each other are slow
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(autouse=True)
def seeded():
    torch.default_generator.manual_seed(0)  # torch.manual_seed takes 4 ms where no GPU is in use


@pytest.fixture
def little_space():
    """A context in which the system refuses to write files of more than so many bytes, as a full
    disk would."""

    @contextlib.contextmanager
    def limited(size):
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    return limited


@pytest.fixture(scope="session")
def browser():
    """The browser that ``make test-browser`` names, Chromium or one of its kind."""
    if not os.environ.get("WTKIT_BROWSER"):
        pytest.skip("run it by: make test-browser")
    sync_api = pytest.importorskip("playwright.sync_api", reason="run it by: make test-browser")
    with sync_api.sync_playwright() as playwright:
        # a container has no sandbox for root
        browser = playwright.chromium.launch(
            executable_path=os.environ["WTKIT_BROWSER"], args=["--no-sandbox"]
        )
        yield browser
        browser.close()


@pytest.fixture
def process_group(tmp_path):
    """The process group of a single process."""
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path / 'init'}", rank=0, world_size=1
    )
    yield
    torch.distributed.destroy_process_group()
