"""Import of real lumbar MR slices: set MEDSOFT_REALSPINE to the folder that holds `mri_vb`."""

import os
from pathlib import Path

import numpy as np
import pytest

from medsoft_nb.data.splits import split
from medsoft_nb.data.manifest import validate
from medsoft_nb.core.images import read_mask
from medsoft_nb.data.folder import import_folder, ImportSettings

REAL = os.environ.get("MEDSOFT_REALSPINE", "")
pytestmark = pytest.mark.skipif(
    not REAL or not (Path(REAL) / "mri_vb").is_dir(),
    reason="real spine images: MEDSOFT_REALSPINE is not set, or has no mri_vb",
)


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    source = Path(REAL) / "mri_vb"
    return import_folder(
        source / "images",
        tmp_path_factory.mktemp("real") / "vb",
        ImportSettings(
            structures=source / "masks",
            table=source / "index.csv",
            columns=dict(image_id="file", patient_id="subset,exam", label="pathology"),
            label_map={"healthy": "healthy", "*": "other"},
            modality="MR",
            plane="sagittal",
            spacing_mm=1,
        ),
    )


def test_counts(imported):
    validate(imported)
    assert len(imported) == 275 and imported.df.patient_id.nunique() == 55
    assert imported.df.label.value_counts().to_dict() == {"healthy": 235, "other": 40}
    assert set(imported.df.patient_id[imported.df.label == "other"].str[:3]) == {"VB1"}


def test_anatomical_order(imported):
    changed = 0
    for i in range(len(imported)):
        before, after = (
            read_mask(Path(REAL) / "mri_vb" / "masks" / Path(imported.df.image[i]).name),
            imported.structures(i),
        )
        assert ((before > 0) == (after > 0)).all()
        rows = [np.nonzero(after == k)[0].mean() for k in range(1, after.max() + 1)]
        assert len(rows) == len(np.unique(before)) - 1 and rows == sorted(rows)
        changed += (before != after).any()
    assert changed > 50  # the numbers do not come in order


def test_split_by_patient(imported):
    parts = split(imported, seed=0)
    validate(parts, files=False)
    assert set(parts.df.split) == {"train", "val", "test"}
