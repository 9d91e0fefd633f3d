"""How quickly images reach the training loop: in memory, from a folder, and from a pack; and what
else a pack could be.

    python benchmarks/data.py                     # two to three minutes on one core
    python benchmarks/data.py --output data.json  # and all figures in a file
    python benchmarks/data.py --photos /where/imagenet/val --number 500

Images a second are those of one core: one thread, time of the processor, so that what else the
machine does hardly matters. Contestants take turns, A B C … C B A; a rate is the median over the
turns, a ratio the median of the ratios to the first of the same round. Photos are made up, unless a
folder of them is named: coloured noise with the spectrum of natural images, 500×375 pixels and
about 100 KB as JPEG, as ImageNet's are in the mean. Decoders and formats take part where they are
installed, nvJPEG where there is a GPU as well.
"""

import argparse
import importlib.metadata
import importlib.util
import io
import json
import platform
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torchvision.transforms import v2

from wtkit import data
from wtkit.data import InMemory
from wtkit.experiments import RunConfig
from wtkit.images import PARTS, open_pack, pack

IMAGENET = 1_281_167 + 50_000  # images
SIZE, SHORT_SIDE = 224, 256
# each goes through some images and says through how many
Contestants = dict[str, Callable[[], int]]


def photos(number: int, seed: int = 0) -> Iterator[bytes]:
    """JPEG files of 500×375 pixels, quality 90: noise with amplitudes of f^-1.15, mostly of
    brightness."""
    rng = np.random.default_rng(seed)
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(375), np.fft.rfftfreq(500), indexing="ij"))
    frequency[0, 0] = np.inf
    for _ in range(number):
        noise = np.fft.irfft2(
            np.fft.rfft2(rng.standard_normal((4, 375, 500))) / frequency**1.15, s=(375, 500)
        )
        noise /= noise.std((1, 2), keepdims=True)
        pixels = 127 + 55 * noise[:1] + 14 * noise[1:]
        yield encoded(
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8).transpose(1, 2, 0)),
            "JPEG",
            quality=90,
        )


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def rates(contestants: Contestants, rounds: int) -> dict[str, dict[str, float]]:
    """Images a second of each, and the ratio to the first."""
    measured: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(rounds + 1):
        for name in list(contestants)[:: 1 if number % 2 else -1]:
            start = time.process_time()
            images = contestants[name]()
            if number:  # the first round warms up
                measured[name].append(images / (time.process_time() - start))
    first = next(iter(measured.values()))
    return {
        name: {
            "images_per_second": statistics.median(found),
            "ratio": statistics.median(a / b for a, b in zip(found, first, strict=True)),
        }
        for name, found in measured.items()
    }


# ---------------------------------------------------------------------------------------- in memory


def in_memory(rounds: int) -> dict[str, Any]:
    """50,000 images of 32×32, as CIFAR-10 has them, each cropped and flipped in its own way and
    normalised."""
    pixels, labels = (
        torch.randint(256, (50_000, 3, 32, 32), dtype=torch.uint8),
        torch.randint(10, (50_000,)),
    )
    held = InMemory(pixels, labels, pixels[:100], labels[:100], 10, shift=4, flip=True, seed=0)
    one_by_one = v2.Compose([
        v2.RandomCrop(32, padding=4), v2.RandomHorizontalFlip(), v2.ToDtype(torch.float32),
        v2.Normalize(held.mean.flatten().tolist(), held.std.flatten().tolist()),
    ])  # fmt: skip
    pairs = [(one_by_one, x) for x in pixels[:2048]]
    loader = torch.utils.data.DataLoader(
        pairs, 128, collate_fn=lambda some: torch.stack([f(x) for f, x in some])
    )
    return rates(
        {
            "image by image, torchvision": lambda: sum(map(len, loader)),
            "wtkit, batch 128": lambda: sum(len(x) for x, _ in held.train_batches(128, 0)),
            "wtkit, batch 512": lambda: sum(len(x) for x, _ in held.train_batches(512, 0)),
        },
        rounds,
    )


# -------------------------------------------------------------------------- from a folder or a pack


def image_folder(root: Path, files: list[bytes], classes: int = 4) -> Path:
    for part, some in zip(PARTS, (files, files[: 2 * classes]), strict=True):
        for number, file in enumerate(some):
            path = root / part / f"class{number % classes}" / f"{number:05d}.JPEG"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(file)
    return root


def reading(folder: Path, packed: Path, rounds: int) -> dict[str, Any]:
    """From the disk to a batch of uint8 at 224×224, each image with a crop and a flip of its own;
    one process."""
    from torchvision.datasets import ImageFolder

    as_tutorials_have_it = v2.Compose(
        [v2.RandomResizedCrop(SIZE), v2.RandomHorizontalFlip(), v2.PILToTensor()]
    )
    loader = torch.utils.data.DataLoader(
        ImageFolder(folder / "train", as_tutorials_have_it), 64, shuffle=True
    )

    def ours(root: Path) -> Callable[[], int]:
        run = RunConfig(
            method="backprop",
            data="image_folder",
            data_root=str(root),
            image_size=SIZE,
            batch_size=8,
            workers=0,
        )
        reader = data.load(run).train
        keys = [(place, 0, place) for place in range(len(reader.images))]
        batches = [keys[i : i + 64] for i in range(0, len(keys), 64)]
        return lambda: sum(len(x) for x, _ in reader.read(batches))

    return rates(
        {
            "ImageFolder, Pillow": lambda: sum(len(x) for x, _ in loader),
            "wtkit, the same folder": ours(folder),
            "wtkit, packed": ours(packed),
        },
        rounds,
    )


def packing(folder: Path, target: Path) -> dict[str, Any]:
    start, images = time.process_time(), sum(1 for _ in folder.rglob("*.JPEG"))
    pack(folder, target, short_side=SHORT_SIDE, workers=0)
    seconds = time.process_time() - start
    stored = sum(path.stat().st_size for path in target.iterdir())
    return {
        "wtkit data pack": {
            "images_per_second": images / seconds,
            "kilobytes": stored / images / 1000,
        }
    }


# ------------------------------------------------------------------------ what else a pack could be


def decoders() -> dict[str, Callable[[bytes], Any]]:
    """From a JPEG file to its pixels, (H, W, 3) or (3, H, W)."""

    def there(name: str) -> bool:
        return importlib.util.find_spec(name) is not None

    found: dict[str, Callable[[bytes], Any]] = {
        "Pillow": lambda file: np.asarray(Image.open(io.BytesIO(file)).convert("RGB"))
    }
    if there("simplejpeg"):
        import simplejpeg

        found["simplejpeg"] = simplejpeg.decode_jpeg
        found["simplejpeg, fast"] = lambda file: simplejpeg.decode_jpeg(
            file, fastdct=True, fastupsample=True
        )
    from torchvision.io import decode_jpeg

    found["torchvision.io (deprecated)"] = lambda file: decode_jpeg(
        torch.frombuffer(bytearray(file), dtype=torch.uint8)
    )
    if there("torchcodec"):
        import torchcodec

        found["torchcodec"] = torchcodec.decoders.decode_jpeg
    if there("cv2"):
        import cv2

        cv2.setNumThreads(1)
        found["OpenCV"] = lambda file: cv2.imdecode(
            np.frombuffer(file, np.uint8), cv2.IMREAD_COLOR_RGB
        )
    return found


def decoding(whole: list[bytes], small: list[bytes], rounds: int) -> dict[str, Any]:
    """Decoders on the photos as they are, and on those brought to a short side of 256."""
    found, results = decoders(), {}
    expected = found["Pillow"](small[0])
    for files, what in ((whole, "500×375"), (small, "short side 256")):
        contestants = {name: lambda f=decode, files=files: sum(1 for x in files if f(x) is not None)
                       for name, decode in found.items()}  # fmt: skip
        for name, rate in rates(contestants, rounds).items():
            results.setdefault(name, {})[what] = rate
    for name, decode in found.items():
        pixels = np.asarray(decode(small[0]))
        pixels = pixels.transpose(1, 2, 0) if len(pixels) == 3 else pixels
        results[name]["pixels_differ_from_pillow"] = float((pixels != expected).mean())
    return results


def nvjpeg(whole: list[bytes], small: list[bytes]) -> dict[str, Any]:
    """nvJPEG through torchvision, in batches: images per second of the GPU by the clock; {} where
    there is none."""
    if not torch.cuda.is_available():
        return {}
    from torchvision.io import decode_jpeg

    results = {}
    for files, what in ((whole, "500×375"), (small, "short side 256")):
        batch = [torch.frombuffer(bytearray(file), dtype=torch.uint8) for file in files]
        found = []
        for _ in range(6):
            torch.cuda.synchronize()
            start = time.perf_counter()
            decode_jpeg(batch, device="cuda")
            torch.cuda.synchronize()
            found.append(len(batch) / (time.perf_counter() - start))
        results[what] = {"images_per_second": statistics.median(found[1:])}
    return results


def formats(images: list[Image.Image], packed: Path, root: Path, rounds: int) -> dict[str, Any]:
    """Ways to store photos at a short side of 256: bytes per image, and images per second to a crop
    of 224.

    All are read at random places; Pillow decodes what simplejpeg does not.
    """
    from wtkit.images import decode

    ways: dict[str, list[bytes]] = {
        f"JPEG, quality {quality}": [
            encoded(x, "JPEG", quality=quality, optimize=True) for x in images
        ]
        for quality in (90, 80, 95)
    }
    ways["JPEG, quality 90, full colour resolution"] = [
        encoded(x, "JPEG", quality=90, optimize=True, subsampling=0) for x in images
    ]
    ways["JPEG, quality 90, progressive"] = [
        encoded(x, "JPEG", quality=90, progressive=True) for x in images
    ]
    ways["WebP, quality 90"] = [encoded(x, "WEBP", quality=90) for x in images]
    ways["PNG"] = [encoded(x, "PNG") for x in images]
    shape = (images[0].height, images[0].width, 3)
    ways["pixels as they are"] = [x.tobytes() for x in images]
    crop = v2.Compose([v2.RandomResizedCrop(SIZE, antialias=True), v2.RandomHorizontalFlip()])

    def reader(name: str) -> Callable[[], int]:
        path = root / f"{len(list(root.iterdir()))}.bin"
        path.write_bytes(b"".join(ways[name]))
        ends = np.cumsum([len(file) for file in ways[name]])
        order = np.random.default_rng(0).permutation(len(ends))

        def read() -> int:
            with path.open("rb", buffering=0) as file:
                for place in order:
                    file.seek(int(ends[place]) - len(ways[name][place]))
                    stored = file.read(len(ways[name][place]))
                    if name == "pixels as they are":
                        x = (
                            torch.frombuffer(bytearray(stored), dtype=torch.uint8)
                            .view(shape)
                            .permute(2, 0, 1)
                        )
                    else:
                        x = decode(stored)
                    crop(x)
            return len(order)

        return read

    contestants = {name: reader(name) for name in ways}
    contestants |= containers(packed, crop)
    results = rates(contestants, rounds)
    for name, files in ways.items():
        results[name]["kilobytes"] = statistics.mean(map(len, files)) / 1000
        results[name]["imagenet_gigabytes"] = results[name]["kilobytes"] * IMAGENET / 1e6
    return results


def containers(packed: Path, crop: Callable) -> Contestants:
    """Our reader of tar shards, at random places, and WebDataset's, one after the other."""
    from wtkit.images import decode

    images, _, _ = open_pack(packed, lambda number: {i: i for i in range(number)})
    order = np.random.default_rng(0).permutation(len(images)).tolist()
    found: Contestants = {
        "tar shards, wtkit": lambda: sum(1 for i in order if crop(images.decoded(i)) is not None)
    }
    if importlib.util.find_spec("webdataset"):
        import webdataset

        shards = [str(path) for path in sorted(packed.glob("train-*.tar"))]

        def stream() -> int:
            samples = webdataset.WebDataset(shards, shardshuffle=False)
            return sum(1 for sample in samples if crop(decode(sample["jpeg"])) is not None)

        found["tar shards, WebDataset, in order"] = stream
    return found


# ---------------------------------------------------------------------------------------------- all


def epochs(packed: Path, workers: int = 2) -> dict[str, Any]:
    """Seconds by the clock to the first batch of an epoch: the first, for which workers start, and
    later ones."""
    run = RunConfig(
        method="backprop",
        data="image_folder",
        data_root=str(packed),
        image_size=SIZE,
        batch_size=8,
        workers=workers,
    )
    loaded, seconds = data.load(run), []
    for epoch in range(4):
        start = time.perf_counter()
        batches = loaded.train_batches(8, epoch)
        next(batches)
        seconds.append(time.perf_counter() - start)
        list(batches)
    return {
        "first epoch": {"seconds": seconds[0]},
        "later epochs": {"seconds": statistics.median(seconds[1:])},
    }


def machine() -> dict[str, Any]:
    names = (
        "torch",
        "torchvision",
        "pillow",
        "simplejpeg",
        "torchcodec",
        "opencv-python-headless",
        "webdataset",
    )
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    versions = {}
    for name in names:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "processor": models[0] if models else platform.processor(),
        "gpu": gpu,
        "python": platform.python_version(),
        "packages": versions,
    }


def measure(number: int, rounds: int, photo_folder: Path | None) -> dict[str, Any]:
    if photo_folder is None:
        whole = list(photos(number))
    else:
        whole = [
            path.read_bytes() for path in sorted(photo_folder.rglob("*.[jJ][pP]*[gG]"))[:number]
        ]
    resize = v2.Resize(SHORT_SIDE, antialias=True)
    images = [Image.open(io.BytesIO(file)).convert("RGB") for file in whole]
    small = [resize(image) for image in images]
    results: dict[str, Any] = {"machine": machine(), "photos": {
        "number": len(whole), "made_up": photo_folder is None,
        "kilobytes": statistics.mean(map(len, whole)) / 1000,
        "pixels": statistics.mean(image.width * image.height for image in images),
    }}  # fmt: skip
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        folder = image_folder(root / "folder", whole)
        results["in_memory"] = in_memory(rounds)
        results["packing"] = packing(folder, root / "pack")
        results["reading"] = reading(folder, root / "pack", 2 * rounds)
        results["epochs"] = epochs(root / "pack")
        jpegs = [encoded(image, "JPEG", quality=90, optimize=True) for image in small]
        results["decoding"] = decoding(whole, jpegs, rounds)
        results["nvjpeg"] = nvjpeg(whole, jpegs)
        same_size = [image for image in small if image.size == small[0].size]
        (root / "formats").mkdir()
        results["formats"] = formats(same_size, root / "pack", root / "formats", rounds)
    return results


def table(results: dict[str, Any]) -> str:
    """All figures, as Markdown."""
    shown = results["photos"]
    kind = "made-up photos" if shown["made_up"] else "photos"
    lines = [
        f"{results['machine']['processor']}, one thread; {shown['number']} {kind} of "
        f"{shown['kilobytes']:.0f} KB and {shown['pixels'] / 1000:.0f},000 pixels in the mean."
    ]

    def add(title: str, heads: list[str], rows: list[list[str]]) -> None:
        lines.extend(["", f"| {title} | {' | '.join(heads)} |", f"| --- |{' --- |' * len(heads)}"])
        lines.extend(f"| {' | '.join(row)} |" for row in rows)

    def rate(found: dict[str, float]) -> list[str]:
        return [f"{found['images_per_second']:,.0f}", f"{found['ratio']:.2f}"]

    for name, title in (("in_memory", "in memory, 32×32"), ("reading", "from the disk to 224×224")):
        add(
            title,
            ["images/s", "ratio"],
            [[who, *rate(found)] for who, found in results[name].items()],
        )
    whole, small = "500×375", "short side 256"
    rows = [
        [
            who,
            *rate(found[whole]),
            *rate(found[small]),
            f"{100 * found['pixels_differ_from_pillow']:.0f} %",
        ]
        for who, found in results["decoding"].items()
    ]
    rows += [["nvJPEG", f"{results['nvjpeg'][whole]['images_per_second']:,.0f} a GPU", "",
              f"{results['nvjpeg'][small]['images_per_second']:,.0f} a GPU", "",
              ""]] if results["nvjpeg"] else [
             ["nvJPEG", "open: no GPU here", "", "", "", ""]]  # fmt: skip
    add(
        "decoding",
        [f"{whole}, images/s", "ratio", f"{small}, images/s", "ratio", "pixels unlike Pillow's"],
        rows,
    )
    rows = []
    for who, found in results["formats"].items():
        disk = (
            [f"{found['kilobytes']:.0f}", f"{found['imagenet_gigabytes']:.0f}"]
            if "kilobytes" in found
            else ["", ""]
        )
        rows.append([who, *disk, *rate(found)])
    add("stored at a short side of 256", ["KB/image", "GB for ImageNet", "images/s", "ratio"], rows)
    made = results["packing"]["wtkit data pack"]
    lines += [
        "",
        f"Packing: {made['images_per_second']:.0f} images per second and core, "
        f"{made['kilobytes']:.0f} KB per image. First batch of an epoch after "
        f"{results['epochs']['first epoch']['seconds']:.2f} s, of later ones after "
        f"{results['epochs']['later epochs']['seconds']:.2f} s, with two workers, by the clock.",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, help="a JSON file for all figures")
    parser.add_argument("--number", type=int, default=96, help="photos; default: 96")
    parser.add_argument(
        "--rounds", type=int, default=5, help="turns of each contestant; default: 5"
    )
    parser.add_argument(
        "--photos", type=Path, help="a folder of JPEG files to take instead of made-up ones"
    )
    given = parser.parse_args()
    torch.set_num_threads(1)
    # it is here to be compared
    warnings.filterwarnings("ignore", "The image decoding", DeprecationWarning)
    start = time.perf_counter()
    results = measure(given.number, given.rounds, given.photos)
    print(table(results))
    print(f"measured in {time.perf_counter() - start:.0f} s", file=sys.stderr)
    if given.output:
        given.output.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
