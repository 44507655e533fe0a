"""Configurations of torchdistill's box: each method as its sample configurations wire it, with its own auxiliary wrappers."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

Config = dict[str, Any]
STAGES = ("layer1", "layer2", "layer3")
FACTOR = "unwritten-paraphraser.pt"
SAMPLES, NEGATIVES, EMBEDDED = 50_000, 16_384, 128
VARIANCE = {"eps": 1e-5, "init_pred_var": 5.0}
LOGITS = {
    f"{net}_module_{key}": value for net in ("student", "teacher") for key, value in (("path", "."), ("io", "output"))
}
POOLED = {key: "fc" if key.endswith("path") else "input" for key in LOGITS}


def out(path: str) -> Config:
    return {"io": "output", "path": path}


def term(key: str, weight: float, **kwargs: Any) -> Config:
    return {"criterion": {"key": key, "kwargs": kwargs}, "weight": weight}


def between(key: str, weight: float, from_teacher: bool, path: str, target: Config, **kwargs: Any) -> Config:
    """A plain loss between what a module puts out and a target."""
    heard = {"is_from_teacher": from_teacher, "module_path": path, "io": "output"}
    wrapper = {"key": "SimpleLossWrapper", "kwargs": {"input": heard, "target": target}}
    return {**term(key, weight, **kwargs), "criterion_wrapper": wrapper}


def taught(path: str) -> Config:
    return {"is_from_teacher": True, "module_path": path, "io": "output"}


def pairs(teacher: Sequence[str], student: Sequence[str]) -> Config:
    return {
        f"pair{i}": {"teacher": out(t), "student": out(s)}
        for i, (t, s) in enumerate(zip(teacher, student, strict=True))
    }


def connector(width: int, wide: int) -> Config:
    """Its 1x1 convolution with a BatchNorm."""
    sizes = {"in_channels": width, "out_channels": wide, "kernel_size": 1, "bias": False}
    return {"conv2d_kwargs": sizes, "bn2d_kwargs": {"num_features": wide}}


def side(*heard: str, inputs: Sequence[str] = (), wrapper: str = "", frozen: str = "", **kwargs: Any) -> Config:
    """A net: the modules whose outputs and inputs are heard, and the auxiliary wrapper round it.

    Args:
        frozen: the part that is, where the wrapper's own modules are trained.
    """
    made: Config = {"forward_proc": "forward_batch_only", "forward_hook": {"input": [*inputs], "output": [*heard]}}
    if wrapper:
        made["auxiliary_model_wrapper"] = {"key": wrapper, "kwargs": kwargs}
    return made | {"requires_grad": bool(frozen), "frozen_modules": [frozen] if frozen else []}


def sides(method: str, s: dict[str, int], t: dict[str, int]) -> tuple[Config, Config, Config]:
    """Teacher, student, and the method's terms, for nets of these widths."""
    inner = [f"student_model.{stage}" for stage in STAGES]
    if method == "kd":
        return side(), side(), {"kd": term("KDLoss", 1.0, **LOGITS, temperature=4.0, alpha=0.1)}
    if method == "dist":
        return side(), side(), {"dist": term("DISTLoss", 1.0, **LOGITS, beta=2.0, gamma=2.0, tau=4.0)}
    if method == "at":
        return side(*STAGES), side(*STAGES), {"at": term("ATLoss", 1000.0, at_pairs=pairs(STAGES, STAGES), mode="code")}
    if method == "sp":
        both = {"student_output_path": "layer3", "teacher_output_path": "layer3"}
        return side("layer3"), side("layer3"), {"sp": term("SPKDLoss", 3000.0, **both, reduction="batchmean")}
    if method == "rkd":
        both = {"student_output_path": "avgpool", "teacher_output_path": "avgpool"}
        rkd = term("RKDLoss", 1.0, **both, dist_factor=25.0, angle_factor=50.0, reduction="mean")
        return side("avgpool"), side("avgpool"), {"rkd": rkd}
    if method == "pkt":
        return side(inputs=["fc"]), side(inputs=["fc"]), {"pkt": term("PKTLoss", 30000.0, **POOLED)}
    if method == "fsp before":
        path = ("relu", *STAGES)
        fsp: Config = {}
        for i, (first, second) in enumerate(pairwise(path)):
            at = {"first": out(first), "second": out(second)}
            fsp[f"pair{i}"] = {f"{net}_{k}": spot for net in ("student", "teacher") for k, spot in at.items()}
        return side(*path), side(*path), {"fsp": term("FSPLoss", 50.0, fsp_pairs=fsp)}
    if method == "fitnet":
        hint = {"hint": {**out(inner[1]), **connector(s["layer2"], t["layer2"])}}
        student = side(inner[1], "connector_dict.hint", wrapper="Connector4DAB", connectors=hint)
        terms = {"hint": between("MSELoss", 100.0, False, "connector_dict.hint", taught("layer2"))}
        return side("layer2"), student, terms
    if method == "ab before":
        ends = [f"connector_dict.{stage}" for stage in STAGES]
        made = {z: {**out(path), **connector(s[z], t[z])} for z, path in zip(STAGES, inner, strict=True)}
        student = side(*inner, *ends, wrapper="Connector4DAB", connectors=made)
        ab = term("AltActTransferLoss", 1.0, feature_pairs=pairs(STAGES, ends), margin=1.0, reduction="mean")
        return side(*STAGES), student, {"ab": ab}
    if method == "vid":
        ends = [f"regressor_dict.{stage}" for stage in STAGES]
        made = {
            z: {**out(path), "kwargs": {"in_channels": s[z], "middle_channels": t[z], "out_channels": t[z], **VARIANCE}}
            for z, path in zip(STAGES, inner, strict=True)
        }
        student = side(*inner, *ends, wrapper="VariationalDistributor4VID", regressors=made)
        return side(*STAGES), student, {"vid": term("VIDLoss", 1.0, feature_pairs=pairs(STAGES, ends))}
    if method == "ickd":
        made = {"last": {**out(inner[2]), "in_channels": s["layer3"], "out_channels": t["layer3"]}}
        student = side(inner[2], "embed_dict.last", wrapper="Student4ICKD", embeddings=made)
        terms = {"ickd": term("ChSimLoss", 2.5, feature_pairs=pairs(["layer3"], ["embed_dict.last"]))}
        return side("layer3"), student, terms
    if method in ("cc", "crd"):
        return vectors(method, s, t)
    if method in ("ft", "ft before"):
        return factors(method, s, t)
    return review(s, t)


def vectors(method: str, s: dict[str, int], t: dict[str, int]) -> tuple[Config, Config, Config]:
    """CCKD and CRD: pooled features of both nets through linear layers, the teacher's trained as well."""
    nets = []
    for width, frozen in ((t["fc"], "model"), (s["fc"], "")):
        linear = {"in_features": width, "out_features": EMBEDDED, "bias": True}
        common: Config = {"frozen": frozen, "linear_kwargs": linear}
        if method == "cc":
            common |= {"wrapper": "Linear4CCKD", "input_module": out("model.avgpool")}
            nets.append(side("model.avgpool", "linear", **common))
        else:
            common |= {"wrapper": "Linear4CRD", "input_module_path": "model.avgpool", "power": 2}
            made = side("model.avgpool", "normalizer", inputs=[] if frozen else ["empty"], **common)
            nets.append({**made, "forward_proc": "forward_batch_supp_dict"})
    if method == "cc":
        kernel, both = {"type": "gaussian", "gamma": 0.4, "max_p": 2}, {"student_linear_path": "linear"}
        cc = term("CCKDLoss", 0.02, **both, teacher_linear_path="linear", kernel_config=kernel, reduction="batchmean")
        return nets[0], nets[1], {"cc": cc}
    paths = {f"{net}_norm_module_path": "normalizer" for net in ("student", "teacher")}
    sizes = {"input_size": EMBEDDED, "output_size": SAMPLES, "num_samples": SAMPLES, "num_negative_samples": NEGATIVES}
    crd = term("CRDLoss", 0.8, **paths, student_empty_module_path="empty", **sizes, temperature=0.07, momentum=0.5)
    return nets[0], nets[1], {"crd": crd}


def factors(method: str, s: dict[str, int], t: dict[str, int]) -> tuple[Config, Config, Config]:
    """Factor transfer: the paraphraser's stage, then the student's."""
    last, half = "teacher_model.layer3", {"k": 0.5, "num_input_channels": t["layer3"], "uses_bn": False}
    common: Config = {
        "minimal": None,
        "input_module_path": last,
        "paraphraser_kwargs": half,
        "paraphraser_ckpt": FACTOR,
    }
    alone, heard = method == "ft before", (last, "paraphraser")
    teacher = side(
        *heard, wrapper="Teacher4FactorTransfer", frozen="teacher_model" if alone else "", **common, uses_decoder=alone
    )
    if alone:
        return teacher, side(wrapper="EmptyModule"), {"ft": between("MSELoss", 1.0, True, "paraphraser", taught(last))}
    sizes = {"num_input_channels": s["layer3"], "num_output_channels": t["layer3"] // 2, "uses_bn": False}
    path = "student_model.layer3"
    made: Config = {"wrapper": "Student4FactorTransfer", "input_module_path": path, "translator_kwargs": sizes}
    return teacher, side(path, "translator", **made), {"ft": term("FTLoss", 200.0, p=1)}


def review(s: dict[str, int], t: dict[str, int]) -> tuple[Config, Config, Config]:
    """ReviewKD."""
    before = [f"{stage}.-1.relu2" for stage in STAGES]
    student = [f"student_model.{path}" for path in before]
    fused = [
        {
            "path": path,
            "io": "input",
            "kwargs": {"in_channels": s[z], "mid_channels": min(512, t["fc"]), "out_channels": t[z]},
        }
        for path, z in zip(student, STAGES, strict=True)
    ]
    top = {"in_channels": s["fc"], "mid_channels": min(512, t["fc"]), "out_channels": t["fc"]}
    fused.append({**out("student_model.avgpool"), "kwargs": top})
    said = [f"abf_modules.{i}" for i in range(4)]
    terms = {}
    for own, path, io in zip(reversed(said), [*before, "avgpool"], ["input"] * 3 + ["output"], strict=True):
        at = {
            "student_module_path": own,
            "student_module_io": "output",
            "teacher_module_path": path,
            "teacher_module_io": io,
        }
        terms[own] = term("HierarchicalContextLoss", 5.0, **at, reduction="mean", output_sizes=[4, 2, 1])
    made: Config = {"abfs": fused, "sizes": [1, 8, 16, 32]}
    wrapped = side("student_model.avgpool", *said, inputs=student, wrapper="Student4KnowledgeReview", **made)
    return side("avgpool", inputs=before), wrapped, terms


def config(method: str, s: dict[str, int], t: dict[str, int]) -> Config:
    """Of its box, for nets of these widths."""
    teacher, student, terms = sides(method, s, t)
    if method != "kd" and not method.endswith(" before"):  # its KD has the labels in it
        terms = {"ce": between("CrossEntropyLoss", 1.0, False, ".", {"uses_label": True}), **terms}
    return {
        "num_epochs": 1,
        "teacher": teacher,
        "student": {**student, "requires_grad": method != "ft before", "frozen_modules": []},
        "optimizer": {"key": "SGD", "kwargs": {"lr": 0.05, "momentum": 0.9, "weight_decay": 5e-4}},
        "criterion": {"key": "WeightedSumLoss", "kwargs": {"sub_terms": terms}},
    }
