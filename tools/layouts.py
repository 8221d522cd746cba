"""The page of joint layouts, docs/layouts.md: a picture with joint numbers, and the names, of each
file of graph/."""

from __future__ import annotations

import graph

# Where a standing person's joints are, seen from the front: across (that of left joints is
# positive, right of the picture), and up, in percent of the height.
MIDDLE = {
    "head": 95, "nose": 90.5, "neck": 84.5, "shoulder center": 82, "upper spine": 78.5,
    "middle of spine": 65, "spine": 60, "base of spine": 52, "hip center": 51, "thorax": 79,
    "pelvis": 51,
}  # fmt: skip
SIDES = {
    "eye": (4, 96), "ear": (9.5, 94), "shoulder": (12, 80), "elbow": (19, 64), "wrist": (23, 50),
    "hand": (24.5, 44), "hand tip": (25.5, 37), "thumb": (19, 42), "hip": (6, 50), "knee": (8, 28),
    "ankle": (9, 7), "foot": (14, 2),
}  # fmt: skip
ABOUT = {
    "ntu_rgb_d": "Kinect v2, 25 joints, 3D in meters: NTU RGB+D 60 and 120, the demo.",
    "nw_ucla": "Kinect v1, 20 joints, 3D in meters: NW-UCLA, UTD-MHAD, MSR Action3D, UTKinect, "
    "Kinder-Gator.",
    "coco": "COCO, 17 joints, 2D with scores: HRNet, RTMPose, ViTPose, YOLO-pose, AlphaPose; "
    "Kinetics-400, FineGYM, Diving48, UCF101, HMDB51.",
    "h36m": "Human3.6M, 17 joints, 3D in meters: MotionBERT, VideoPose3D and other lifters of "
    "2D poses.",
    "openpose": "OpenPose's 18 joints of COCO with a neck, 2D with scores: Kinetics-skeleton.",
}
HEAD = """# Joint layouts

A clip must have the joints of its layout in this order. The pictures show a person from the front,
so that the left side of the body (blue) is on the right; lines are bones (`parent`).
`python -m data.convert` maps the forms of pose estimators to these layouts
([predict.md](predict.md#from-a-pose-estimator)); a layout of your own is a YAML file of the same
form ([extending.md](extending.md#a-data-set-of-your-own)).

Made from `graph/` by `python -m tools.zoo`.
"""
SCALE, WIDTH = 4.0, 300
STYLE = """text { font: 11px system-ui, sans-serif; fill: #fff; text-anchor: middle }
.bone { stroke: #8d939d; stroke-width: 3 } .left { fill: #0072b2 } .right { fill: #d55e00 }
.middle { fill: #63676f }"""


def place(name: str) -> tuple[float, float, str]:
    """Return where a joint is in the picture, in pixels, and left, right or middle; KeyError for an
    unknown name."""
    side, _, part = name.partition(" ")
    if side not in ("left", "right"):
        return WIDTH / 2, SCALE * (101 - MIDDLE[name]), "middle"
    across, up = SIDES[part]
    return WIDTH / 2 + SCALE * (across if side == "left" else -across), SCALE * (101 - up), side


def picture(skeleton: graph.Skeleton) -> str:
    """Return a layout as SVG: bones, and joints with their numbers, left and right by color."""
    at = [place(name) for name in skeleton.joints]
    bones = "".join(
        f'<line class="bone" x1="{at[v][0]:g}" y1="{at[v][1]:g}" x2="{at[u][0]:g}" '
        f'y2="{at[u][1]:g}"/>'
        for v, u in enumerate(skeleton.parent)
    )
    joints = "".join(
        f'<circle class="{side}" cx="{x:g}" cy="{y:g}" r="8.5"/>'
        f'<text x="{x:g}" y="{y + 4:g}">{v}</text>'
        for v, (x, y, side) in enumerate(at)
    )
    height = SCALE * 104
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:g}" width="{WIDTH}" '
        f'height="{height:g}"><style>{STYLE}</style>{bones}{joints}</svg>\n'
    )


def page() -> str:
    """Return the Markdown page; its pictures are images/layout-NAME.svg."""
    parts = [HEAD]
    for name in sorted(graph.LAYOUTS, key=list(ABOUT).index):
        joints = ", ".join(f"{v} {joint}" for v, joint in enumerate(graph.load(name).joints))
        parts.append(
            f"## `{name}`\n\n{ABOUT[name]}\n\n![Joints of {name} with their numbers]"
            f"(images/layout-{name}.svg)\n\n{joints}.\n"
        )
    return "\n".join(parts)
