"""Nets of timm, torchvision and the Hugging Face Hub. Each library is imported only when one of its nets is asked for."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from potstill.errors import ModelError, PotstillError, RefusedError, did_you_mean, first_line
from potstill.extras import optional
from potstill.models.net import Facts, Net
from potstill.models.preprocess import Preprocess
from potstill.models.spec import Spec
from potstill.models.weights import sha256

ACCESS = ("cache_dir", "local_files_only", "force_download", "proxies", "token")
"""Arguments of transformers that say how to reach a net, not what it is; a token must never be recorded."""


@contextmanager
def loading(what: str) -> Iterator[None]:
    """Turn what a library raises while it finds and fetches a net into one clear error."""
    try:
        yield
    except PotstillError:
        raise
    except Exception as e:
        if "trust_remote_code" in str(e):
            raise RefusedError(
                f"{what} brings its own code, which loading it would run",
                hint="if you trust it, put that code into a FILE.py:NAME",
            ) from e
        raise ModelError(
            f"{what} cannot be loaded: {first_line(e)}",
            why="looked in the library, in its cache on this machine (HF_HOME, TORCH_HOME) and, unless offline, on the network",
            hint="check the name; without a network, fetch it before (`hf download NAME`) or name a local folder or file",
        ) from e


def timm(spec: Spec, facts: Facts, fresh: bool) -> Net:
    """``timm:NAME``. Trained weights come with a name that says which (``resnet50.a1_in1k``) or with ``pretrained=True``.

    A trained net keeps its head and its channels; an untrained one is made for the data.
    """
    timm = optional("timm", "timm", what="a timm net")
    kwargs = dict(spec.kwargs)
    trained = kwargs.pop("pretrained", "." in spec.name) and not fresh
    if not trained:
        names = {"num_classes": "num_classes", "in_channels": "in_chans"}
        kwargs = {**{names[k]: v for k, v in facts.items() if v is not None}, **kwargs}
    with loading(spec.text):
        base = spec.name.split(".")[0]
        if ":" not in spec.name and not timm.is_model(base):
            raise ModelError(f"timm has no net {base!r}.{did_you_mean(base, timm.list_models())}")
        module = timm.create_model(spec.name, pretrained=bool(trained), **kwargs)
        config = timm.data.resolve_model_data_config(module)
    channels, *size = config["input_size"]
    if trained:
        return Net(module, spec.text, kwargs, Preprocess(config["mean"], config["std"], size, channels))
    fixed = module.pretrained_cfg.get("fixed_input_size", False)
    return Net(module, spec.text, kwargs, Preprocess(size=size) if fixed else None)


def torchvision(spec: Spec, facts: Facts, fresh: bool) -> Net:
    """``torchvision:NAME``. Trained weights come with ``weights="DEFAULT"`` or the name of others of that net."""
    models = optional("torchvision", "torchvision", "models", what="a torchvision net").models
    kwargs = dict(spec.kwargs)
    weights = kwargs.pop("weights", None)
    if fresh or weights is None:
        weights = None
        if facts.get("num_classes") is not None:
            kwargs.setdefault("num_classes", facts["num_classes"])
    with loading(spec.text):
        if spec.name not in models.list_models():
            raise ModelError(f"torchvision has no net {spec.name!r}.{did_you_mean(spec.name, models.list_models())}")
        if weights is None:
            return Net(models.get_model(spec.name, weights=None, **kwargs), spec.text, kwargs)
        weights = models.get_model_weights(spec.name)[weights]
        module = models.get_model(spec.name, weights=weights, **kwargs)
        prepare = weights.transforms()
    preprocess = Preprocess(prepare.mean, prepare.std, prepare.crop_size[0], 3)
    return Net(module, spec.text, kwargs, preprocess, list(weights.meta["categories"]))


def hf(spec: Spec, fresh: bool) -> Net:
    """``hf:REPO``, ``hf:REPO@REVISION`` or ``hf:FOLDER``: an image classifier of transformers, in float32.

    It keeps its own head. What stands in front of it is read from its ``preprocessor_config.json``.
    """
    auto = optional("transformers", "hub", "AutoConfig", "AutoModelForImageClassification", what="a Hub net")
    kwargs, name = dict(spec.kwargs), spec.name
    folder = Path(name).expanduser()
    if folder.is_dir():
        name = str(folder)
    elif "\\" in name or name[0] in "/~." or name.count("/") > 1:
        beside = [str(p) for p in folder.parent.iterdir() if p.is_dir()] if folder.parent.is_dir() else []
        raise ModelError(
            f"there is no folder {name}.{did_you_mean(name, beside)}", hint="a net of the Hub is hf:OWNER/NAME"
        )
    elif "@" in name:
        name, kwargs["revision"] = name.rsplit("@", 1)
    place = {k: kwargs[k] for k in (*ACCESS, "revision", "subfolder") if k in kwargs}
    safely = {"trust_remote_code": False, **kwargs}  # left out, the library would ask on the terminal
    notices: list[str] = []
    with loading(spec.text):
        if fresh:
            config = auto.AutoConfig.from_pretrained(name, **safely)
            module = auto.AutoModelForImageClassification.from_config(config)
        else:
            module, info = auto.AutoModelForImageClassification.from_pretrained(
                name, output_loading_info=True, **{"dtype": "float32", **safely}
            )
            new = sorted([*info["missing_keys"], *(k for k, *_ in info["mismatched_keys"])])
            if new:
                notices.append(
                    f"{spec.text}: {len(new)} tensors are not in the checkpoint and start anew: {', '.join(new[:5])}"
                )
        from transformers.utils import cached_file

        home = Path(str(cached_file(name, "config.json", **place))).parent
        file = cached_file(name, "preprocessor_config.json", _raise_exceptions_for_missing_entries=False, **place)
    if home.parent.name == "snapshots":  # of the Hub: that commit is what the net is
        kwargs["revision"] = home.name
    recorded = {k: v for k, v in kwargs.items() if k not in ACCESS}
    preprocess = None
    if file is None:
        notices.append(f"{spec.text} has no preprocessor_config.json: nothing is known of its normalisation and size")
    else:
        preprocess = from_processor(json.loads(Path(file).read_bytes()), getattr(module.config, "num_channels", None))
    labels = [str(label) for _, label in sorted((int(k), v) for k, v in module.config.id2label.items())]
    classes = None if all(re.fullmatch(r"LABEL_\d+", label) for label in labels) else labels
    net = Net(module, f"hf:{name}", recorded, preprocess, classes, notices=notices)
    weights = home / "model.safetensors"
    if not fresh and weights.is_file():
        net.sha256, net.path = sha256(weights), str(weights)
    return net


def from_processor(config: dict[str, Any], channels: int | None) -> Preprocess:
    """What a ``preprocessor_config.json`` says.

    The net was fed ``(255 · factor · x - shift - mean) / std`` for x in [0, 1]; factor and shift are folded into mean and
    std. Its resizing and cropping become one resizing to the size it ends with.
    """

    def sides(value: Any) -> tuple[int, int] | None:
        if isinstance(value, dict):
            value = (value["height"], value["width"]) if "height" in value else value.get("shortest_edge")
        return (value, value) if isinstance(value, int) else None if value is None else (value[0], value[1])

    normalise = config.get("do_normalize", True) and config.get("image_mean") is not None
    mean, std = (config["image_mean"], config["image_std"]) if normalise else ([0.0], [1.0])
    factor = round(255 * config.get("rescale_factor", 1 / 255), 9) if config.get("do_rescale", True) else 255.0
    shift = 1.0 if config.get("rescale_offset") else 0.0
    size = sides(config.get("size")) if config.get("do_resize", True) else None
    if config.get("do_center_crop"):
        size = sides(config.get("crop_size")) or size
    return Preprocess([(m + shift) / factor for m in mean], [s / factor for s in std], size, channels)
