"""A third dataset, as one adds it: a spec. Its archive has other folders, classes and sizes."""

from jaxunet.data.dataset_spec import ArchiveLayout, DatasetSpec, Subset

WRISTS = DatasetSpec(
    name="wrists",
    title="WRISTS",
    citation="nobody",
    terms="anything.",
    classes=("whole", "broken"),
    positive="broken",
    subsets={
        "fractures": Subset("Broken wrists.", ("fracture",), ("broken",), "hand", 2),
        "all": Subset("All wrists.", ("fracture",), ("whole", "broken"), "hand", 4),
    },
    builder="jaxunet.data.builders",
    size=64,
    archive=ArchiveLayout(
        parts={"hand": "Hands (left)"},
        kinds={"image": "x-rays", "fracture": "fractures"},
        splits=("training", "tuning", "testing"),
        published={"hand": {("training", "broken"): 2}},
        kaggle="nobody/wrists",
        download="1 MB",
    ),
)
