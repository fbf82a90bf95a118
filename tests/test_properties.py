"""What holds for every mask, blend, manifest and setting, tried on many of each: 1,000 masks, 1,000 blends, 500
manifests, 500 settings; the same ones every time.
"""

import string
import numpy as np, pandas as pd, pytest, torch
from hypothesis import given, HealthCheck, settings, strategies as st
from hypothesis.extra import numpy as hnp
from medsoft_nb.data.columns import HEALTHY
from medsoft_nb.data.manifest import Manifest
from medsoft_nb.data.splits import split
from medsoft_nb.lesions.shapes import random_mask
from medsoft_nb.lesions.soft import PROFILES, soften
from medsoft_nb.painting.blend import BLENDS, composite, latent_mask, latent_weight, pixel_weight
from medsoft_nb.painting.settings import GenerateConfig
from medsoft_nb.training.stages import Training

often = dict(deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
FLIPS = (np.flipud, np.fliplr, np.transpose)


@st.composite
def masks(draw):
    "A binary mask of random shape and place"
    shape = draw(st.tuples(st.integers(24, 60), st.integers(24, 60)))
    seed, kind = draw(st.integers(0, 10**6)), draw(st.sampled_from(['blob', 'ellipse', 'box']))
    return random_mask(shape, seed, kind, (2, 8))


@settings(max_examples=1000, **often)
@given(mask=masks(), ramp=st.floats(0, 12), profile=st.sampled_from(PROFILES), pad=st.integers(1, 9))
def test_soft_masks(mask, ramp, profile, pad):
    "In range, 1 on the lesion, 0 beyond the ramp, falling with the distance; flips and crops come first or last"
    soft = soften(mask, ramp, profile=profile)
    assert soft.dtype == np.float32 and soft.min() >= 0 and soft.max() <= 1
    for flip in FLIPS:
        np.testing.assert_allclose(soften(flip(mask), ramp, profile=profile), flip(soft), atol=1e-6)
    if profile == 'gaussian':
        return
    wider = soften(mask, ramp + 2, profile=profile)
    assert (soft[mask > 0] == 1).all() and (wider >= soft - 1e-6).all()
    padded = soften(np.pad(mask, pad), ramp, profile=profile)
    np.testing.assert_allclose(padded[pad:-pad, pad:-pad], soft, atol=1e-6)


@settings(max_examples=1000, **often)
@given(
    soft=hnp.arrays(np.float32, (8, 12), elements=st.one_of(st.just(0.0), st.floats(0, 1, width=32))),
    mode=st.sampled_from(BLENDS),
    dtype=st.sampled_from([np.uint8, np.uint16, np.float32]),
    progress=st.floats(0, 1),
    seed=st.integers(0, 10**6),
)
def test_blends(soft, mode, dtype, progress, seed):
    "Weights in range that grow with the mask; 0 stays 0; type, flips and the range between both images are kept"
    r = np.random.default_rng(seed)
    x, y = (r.integers(0, 256, soft.shape).astype(dtype) for _ in range(2))
    made = composite(x, y, soft)
    assert made.dtype == dtype and (made[soft == 0] == x[soft == 0]).all()
    assert (made >= np.minimum(x, y)).all() and (made <= np.maximum(x, y)).all()
    for flip in FLIPS:
        np.testing.assert_array_equal(composite(flip(x), flip(y), flip(soft)), flip(made))
    small = latent_mask(torch.from_numpy(soft)[None, None], 4)
    weight, more = (latent_weight(m, mode, progress) for m in (small, (small * 1.5).clamp(max=1)))
    assert ((weight >= 0) & (weight <= 1)).all() and (more >= weight - 1e-6).all()
    pixels = pixel_weight(soft, mode)
    assert (pixels[soft == 0] == 0).all() and (pixels >= soft - 1e-6).all() and pixels.max() <= 1


LETTERS = list(string.ascii_letters + string.digits + ' äß-_,"')
words = st.text(LETTERS, min_size=1, max_size=20).map(str.strip)


def cells(r, n):
    "Different words of random letters"
    made = set()
    while len(made) < n:
        made.add(''.join(r.choice(LETTERS, r.integers(1, 20))).strip())
        made -= {'', 'nan', 'None', 'NA'}
    return r.permutation(sorted(made)).tolist()


@st.composite
def tables(draw):
    "A table of images without files; as many patients as it likes"
    r, n = np.random.default_rng(draw(st.integers(0, 10**6))), draw(st.integers(4, 12))
    labels = r.choice([HEALTHY, 'lytic', 'mixed "grey", white'], n)
    of, names = r.choice(cells(r, draw(st.integers(2, 6))), n), [f'images/{k}.png' for k in range(n)]
    return pd.DataFrame(dict(image_id=cells(r, n), patient_id=of, image=names, label=labels, prompt=cells(r, 1)[0]))


@settings(max_examples=150, **often)
@given(table=tables(), seed=st.integers(0, 99))
def test_manifests(table, seed, tmp_path_factory):
    "Saved and read it is the same, elsewhere too; no patient is on two sides; joined parts are the whole"
    folder = tmp_path_factory.getbasetemp() / 'manifests'
    made = Manifest(table, folder)
    elsewhere = folder.parent / 'elsewhere/table.csv'
    elsewhere.parent.mkdir(exist_ok=True)
    back = Manifest.load(made.save(elsewhere))
    assert list(back.df.image_id) == list(made.df.image_id) and list(back.df.prompt) == list(made.df.prompt)
    assert [back.path(i).resolve() for i in range(len(back))] == [made.path(i).resolve() for i in range(len(made))]
    joined = made.rows([0]).concat(made.rows(range(1, len(made))))
    pd.testing.assert_frame_equal(joined.df, made.df)
    try:
        shared = split(made, (0.5, 0, 0.5), seed)
    except ValueError as e:
        assert 'Add patients' in str(e)
    else:
        assert (shared.df.groupby('patient_id').split.nunique() == 1).all()
        pd.testing.assert_frame_equal(shared.df, split(made, (0.5, 0, 0.5), seed).df)


def values(name, schema):
    "Any value of a kind, in range or not"
    kinds = {'integer': st.integers(), 'number': st.floats(), 'boolean': st.booleans(), 'string': words}
    options = [option.get('type') for option in schema.get('anyOf', [schema])]
    near = st.integers(0, 20) | st.floats(0, 1) | st.sampled_from(schema.get('enum', ['']))
    return st.one_of(near, *(kinds[kind] for kind in options if kind in kinds))


@st.composite
def settings_of(draw, model):
    "Some settings with values"
    properties = model.model_json_schema()['properties']
    names = draw(st.lists(st.sampled_from(sorted(properties)), min_size=1, max_size=4, unique=True))
    return {name: draw(values(name, properties[name])) for name in names}


@pytest.mark.parametrize('model', [GenerateConfig, Training])
@settings(max_examples=250, **often)
@given(data=st.data())
def test_settings(model, data):
    "Either they are refused in one sentence, or they are finite, keep their value and come back from JSON"
    given = data.draw(settings_of(model))
    try:
        made = model(**given)
    except ValueError as e:
        assert len(str(e).splitlines()) == 1 and 'pydantic' not in str(e)
        return
    assert model.model_validate_json(made.model_dump_json()) == made == made.replace()
    for name, value in given.items():
        kept = getattr(made, name)
        assert kept == value or isinstance(kept, (list, tuple)) or float(kept) == float(value)
        assert not isinstance(kept, float) or np.isfinite(kept)
