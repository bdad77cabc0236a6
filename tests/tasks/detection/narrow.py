"""All detectors as sections of a YAML, narrow enough to train in moments; what differs most comes first."""

NARROW = (
    {"name": "yolo", "width": 4},
    {"name": "faster_rcnn", "width": 4},
    {"name": "ssd", "width": 4},
    {"name": "yolo", "width": 4, "head": "anchors"},
    {"name": "retinanet", "width": 4},
    {"name": "fcos", "width": 4},
    {"name": "mask_rcnn", "width": 4},
    {"name": "fast_rcnn", "width": 4},
    {"name": "rcnn", "width": 4},
)
