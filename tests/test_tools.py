"""Converted networks under the tools that people train with: as in the plain loop, or refused.

Opt-in: ``make test-tools`` installs the tools; a tool that is not installed is skipped.
docs/howto/tools.md has the table.
"""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import wtkit
from wtkit.feedback import feedback_layers

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # of the tools themselves
]
METHODS = ["feedback_alignment", "sign_symmetry", "kolen_pollack", "symmetric_alignment"]
STEPS = 4


def network(method="kolen_pollack"):
    torch.manual_seed(0)
    layers = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Flatten(), nn.Linear(8 * 6 * 6, 12), nn.Tanh(), nn.Linear(12, 5),
    )  # fmt: skip
    return wtkit.convert(layers, method, seed=0)


def batches(steps=STEPS):
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.randn(8, 3, 6, 6, generator=generator), torch.randint(5, (8,), generator=generator))
        for _ in range(steps)
    ]


def sgd(model):
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.05)


def plain_loop(model, optimizer=None, data=None):
    optimizer = optimizer or sgd(model)
    for x, y in data or batches():
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model


def same(one, other, **tolerance):
    """Whether two networks have the same weights and the same B."""
    expected, found = one.state_dict(), other.state_dict()
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        torch.testing.assert_close(
            found[name], value, **tolerance, msg=lambda m, n=name: f"{n}: {m}"
        )


def mismatch(model):
    return {
        name: (layer.weight - layer.B).detach() for name, layer in feedback_layers(model).items()
    }


# ------------------------------------------------------------------------- loops of other libraries


@pytest.mark.parametrize("method", METHODS)
def test_lightning(method, tmp_path):
    lightning = pytest.importorskip("lightning")

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.model = network(method)

        def training_step(self, batch, _):
            x, y = batch
            return F.cross_entropy(self.model(x), y)

        def configure_optimizers(self):
            return sgd(self.model)

    module = Module()
    trainer = lightning.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_progress_bar=False,
        enable_model_summary=False, enable_checkpointing=False, default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(module, torch.utils.data.DataLoader(batches(), batch_size=None))
    same(plain_loop(network(method)), module.model)


@pytest.mark.parametrize("method", METHODS)
def test_accelerate(method):
    accelerate = pytest.importorskip("accelerate")
    accelerator = accelerate.Accelerator(cpu=True)
    model = network(method)
    model, optimizer = accelerator.prepare(model, sgd(model))
    for x, y in batches():
        accelerator.backward(F.cross_entropy(model(x), y))
        optimizer.step()
        optimizer.zero_grad()
    same(plain_loop(network(method)), accelerator.unwrap_model(model))


@pytest.mark.parametrize("method", METHODS)
def test_trainer_of_transformers(method, tmp_path):
    transformers = pytest.importorskip("transformers")

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = network(method)

        def forward(self, x, labels):
            return {"loss": F.cross_entropy(self.model(x), labels)}

    model = Model()
    rows = [
        {"x": x, "labels": label}
        for images, labels in batches()
        for x, label in zip(images, labels, strict=True)
    ]
    trainer = transformers.Trainer(
        model,
        transformers.TrainingArguments(
            str(tmp_path), max_steps=STEPS, per_device_train_batch_size=8, use_cpu=True,
            lr_scheduler_type="constant", max_grad_norm=0.0, report_to=[], save_strategy="no",
            disable_tqdm=True, remove_unused_columns=False, logging_strategy="no",
        ),
        train_dataset=rows,
        optimizers=(sgd(model), None),
    )  # fmt: skip
    trainer._get_train_sampler = lambda *_: torch.utils.data.SequentialSampler(rows)
    trainer.train()
    same(plain_loop(network(method)), model.model, rtol=1e-4, atol=1e-5)


# ---------------------------------------------------------------------------- networks and adapters


@pytest.mark.parametrize("name", ["resnet10t", "mobilenetv3_small_050", "mixer_s32_224"])
def test_networks_of_timm(name):
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    plain = timm.create_model(name, num_classes=5)
    # its classifier is of a subclass of nn.Linear, which is refused by name
    rest = ["classifier"] if name.startswith("mobilenet") else []
    model = wtkit.convert(copy.deepcopy(plain), "backprop", keep_on_backprop=rest)
    x, y = torch.randn(4, 3, 224, 224), torch.arange(4)
    for net in (plain, model):
        torch.manual_seed(0)  # of dropout
        F.cross_entropy(net(x), y).backward()
    for (where, p), q in zip(plain.named_parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(q.grad, p.grad, rtol=1e-3, atol=1e-4, msg=where)
    assert len(feedback_layers(model)) > 5


def test_a_timm_network_learns_with_kolen_pollack():
    timm = pytest.importorskip("timm")
    model = wtkit.convert(timm.create_model("resnet10t", num_classes=5), "kolen_pollack")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.1)
    before = mismatch(model)
    for _ in range(2):
        F.cross_entropy(model(torch.randn(4, 3, 64, 64)), torch.arange(4)).backward()
        optimizer.step()
        optimizer.zero_grad()
    for name, gap in mismatch(model).items():
        torch.testing.assert_close(gap, 0.99**2 * before[name], rtol=1e-3, atol=1e-5)


def test_lora_of_peft_trains_adapters_of_a_network_that_was_converted_before():
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=2, target_modules=["4"])
    model = peft.get_peft_model(network("feedback_alignment"), config)
    trained = [p for p in model.parameters() if p.requires_grad]
    weight = model.base_model.model[4].base_layer.weight.detach().clone()
    for x, y in batches(2):
        F.cross_entropy(model(x), y).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in trained)
    assert torch.equal(model.base_model.model[4].base_layer.weight, weight)


# --------------------------------------------------------------------------------------- optimizers


def test_schedule_free_keeps_the_mismatch_of_kolen_pollack():
    schedulefree = pytest.importorskip("schedulefree")
    model = network()
    before = mismatch(model)
    optimizer = schedulefree.SGDScheduleFree(model.parameters(), lr=0.1)
    optimizer.train()
    plain_loop(model, optimizer)
    for name, gap in mismatch(model).items():
        torch.testing.assert_close(gap, before[name], rtol=1e-3, atol=1e-5)


def test_muon_keeps_the_mismatch_of_kolen_pollack():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8, bias=False), nn.ReLU(), nn.Linear(8, 5, bias=False))
    wtkit.convert(model, "kolen_pollack", seed=0)
    before = mismatch(model)
    optimizer = torch.optim.Muon(model.parameters(), lr=0.02, weight_decay=0.0)
    data = [(torch.randn(8, 6), torch.randint(5, (8,))) for _ in range(STEPS)]
    plain_loop(model, optimizer, data)
    for name, gap in mismatch(model).items():
        torch.testing.assert_close(gap, before[name], rtol=1e-2, atol=1e-3)


def test_an_averaged_model_averages_w_and_b():
    model = network()
    averaged = torch.optim.swa_utils.AveragedModel(model)
    optimizer = sgd(model)
    states = []
    for batch in batches():
        plain_loop(model, optimizer, [batch])
        averaged.update_parameters(model)
        states.append(copy.deepcopy(model.state_dict()))
    for name, value in averaged.module.state_dict().items():
        if name.endswith(("weight", "feedback")):
            torch.testing.assert_close(value, torch.stack([s[name] for s in states]).mean(0))


# ----------------------------------------------------------------------- privacy, pruning and files


@pytest.mark.parametrize("method", ["feedback_alignment", "kolen_pollack"])
def test_opacus_refuses_layers_with_a_b(method):
    opacus = pytest.importorskip("opacus")
    layers = nn.Sequential(nn.Flatten(), nn.Linear(108, 7), nn.ReLU(), nn.Linear(7, 5))
    model = wtkit.convert(layers, method)
    (x, y), *_ = batches()
    with pytest.raises((NotImplementedError, AttributeError)):
        private, optimizer, _ = opacus.PrivacyEngine().make_private(
            module=model, optimizer=sgd(model), noise_multiplier=1.0, max_grad_norm=1.0,
            data_loader=torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), 8),
        )  # fmt: skip
        F.cross_entropy(private(x), y).backward()
        optimizer.step()


def test_pruning_is_refused_by_kolen_pollack_and_right_with_feedback_alignment():
    from torch.nn.utils import prune

    model = network("feedback_alignment")
    prune.l1_unstructured(model[4], "weight", 0.5)
    plain_loop(model)
    assert (model[4].weight == 0).float().mean() >= 0.5
    model = network("kolen_pollack")
    prune.l1_unstructured(model[4], "weight", 0.5)
    with pytest.raises(wtkit.WtkitError, match="weight"):
        plain_loop(model)


def test_safetensors_hold_a_converted_network(tmp_path):
    safetensors = pytest.importorskip("safetensors.torch")
    model = plain_loop(network())
    safetensors.save_model(model, str(tmp_path / "model.safetensors"))
    other = network()
    safetensors.load_model(other, str(tmp_path / "model.safetensors"))
    same(model, other)


def test_an_exported_network_runs_in_onnx(tmp_path):
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    model = wtkit.export(plain_loop(network())).eval()
    x, _ = batches()[0]
    path = str(tmp_path / "model.onnx")
    torch.onnx.export(model, (x,), path, dynamo=True)
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), model(x).detach(), rtol=1e-4, atol=1e-4)


def test_an_exported_network_passes_torch_export():
    model = wtkit.export(plain_loop(network())).eval()
    x, _ = batches()[0]
    program = torch.export.export(model, (x,))
    torch.testing.assert_close(program.module()(x), model(x))
