import pytest
import torch

torch.set_num_threads(1)  # the layers of the tests are tiny


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)
