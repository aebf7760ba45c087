"""Two commands for each `--help`; a test parses them all."""

from __future__ import annotations

EXAMPLES: dict[str, tuple[str, ...]] = {
    "train": (
        "embex train --data photos --model resnet50 --model.pretrained true --out runs/photos",
        "embex train --data photos --model resnet50 --model.pretrained true --loss triplet --expansion.form balanced",
    ),
    "tune": (
        "embex tune --data photos --model resnet50 --model.pretrained true --out runs/tuning",
        "embex tune --loss triplet --arms none balanced balanced_negative --trials 6 --search lr loss",
    ),
    "reproduce": (
        "embex reproduce evidence --dry_run",
        "embex reproduce evidence --only glyphs --hours 2",
    ),
    "evaluate": (
        "embex evaluate runs/photos",
        "embex evaluate resnet50 --pretrained true --data photos",
    ),
    "compare": (
        "embex compare runs/plain runs/expanded",
        "embex compare runs/plain runs/expanded runs/balanced --html comparison.html",
    ),
    "report": ("embex report runs/photos",),
    "calibrate": (
        "embex calibrate runs/photos --precision 0.99",
        "embex calibrate index --false_alarm_rate 0.05",
    ),
    "export": (
        "embex export runs/photos --format onnx --out model",
        "embex export resnet50 --pretrained true --format safetensors --out model",
    ),
    "embed": (
        "embex embed runs/photos photos --out photos.npz",
        "embex embed resnet50 holiday.jpg --pretrained true --out holiday.npz",
    ),
    "index": (
        "embex index runs/photos photos --out index",
        "embex index resnet50 photos --pretrained true --out index",
    ),
    "add": ("embex add index more-photos",),
    "remove": (
        "embex remove index photos/blurred.jpg",
        "embex remove index --prefix photos/2019/",
    ),
    "search": (
        "embex search index query.jpg",
        "embex search index queries/ -k 20 --html matches.html",
    ),
    "cluster": (
        "embex cluster index --out clusters",
        "embex cluster photos --model resnet50 --pretrained true --out clusters",
    ),
    "duplicates": (
        "embex duplicates index",
        "embex duplicates index --threshold 0.95 --html duplicates.html",
    ),
    "serve": (
        "embex serve index",
        "embex serve index --host 0.0.0.0 --port 8080 --token SECRET",
    ),
    "info": ("embex info index",),
    "data": (
        "embex data list",
        "embex data photos check",
    ),
    "data prepare": (
        "embex data prepare photos",
        "embex data prepare photos --size 320 --out /fast-disk/photos-320",
    ),
    "completion": ("embex completion bash", "embex completion fish"),
    "env": ("embex env",),
}
