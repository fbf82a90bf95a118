"The LoRA `spine`: its notebook runs, it is used where it is shipped and asked for, and by no benchmark"

import json
from pathlib import Path
import papermill, pytest, torch
from safetensors import safe_open
from medsoft_nb.apps.session import session_lora
from medsoft_nb.core.files import data_path
from medsoft_nb.models import files
from medsoft_nb.models.files import default_lora, model_folder, SHIPPED_LORAS
from medsoft_nb.models.lora_files import read_lora
from medsoft_nb.models.records import patients_of
from medsoft_nb.models.seen import read_seen
from medsoft_nb.models.weight_files import find_lora, LORA_FILE
from medsoft_nb.painting.pipeline import MedSoftPipeline
from medsoft_nb.running.settings import FinetuneSettings, GenerateSettings

root = Path(__file__).parent.parent


@pytest.fixture
def shipped(tmp_path, monkeypatch):
    "A folder of models in which `spine` may be put"
    monkeypatch.setattr(files, 'data_path', lambda *parts: tmp_path.joinpath(*parts))
    return tmp_path / 'models'


def test_it_is_the_default_of_the_shipped_base_where_it_is_there(shipped):
    assert default_lora('medsoft-tiny') is None and session_lora(None, 'medsoft-tiny') is None
    (shipped / 'spine').mkdir(parents=True)
    assert default_lora('medsoft-tiny') == session_lora(None, 'medsoft-tiny') == 'spine'
    assert default_lora('some/other') is None and session_lora(None, 'some/other') is None
    assert session_lora(None, 'medsoft-tiny', pipe=object()) is None  # it has its own weights
    assert session_lora('none', 'medsoft-tiny') is None and session_lora('', 'medsoft-tiny') is None
    assert session_lora('mine', 'medsoft-tiny') == 'mine'


def test_it_is_found_by_its_name_with_what_it_has_seen(shipped):
    with pytest.raises(ValueError, match='does not exist'):
        find_lora('spine')
    (shipped / 'spine').mkdir(parents=True)
    (shipped / 'spine' / LORA_FILE).touch()
    seen = dict(images='lesions', organ='spine', labels=dict(mr=['healthy', 'modic-1']), patients={})
    (shipped / 'spine/seen.json').write_text(json.dumps(seen))
    (shipped / 'spine/training.json').write_text(json.dumps(dict(patients=['spider-1'])))
    assert find_lora('spine') == shipped / 'spine' / LORA_FILE
    assert read_seen('spine').labels == seen['labels'] and patients_of('spine') == {'spider-1'}


def test_no_benchmark_uses_it():
    names = [f'{sign}{name}{sign}' for name in SHIPPED_LORAS for sign in ('"', "'", ' ')]
    profiles = sorted(data_path('profiles').glob('*.yml'))
    assert len(profiles) > 3
    for path in (*profiles, *(root / 'nbs/experiments').glob('*.ipynb')):
        if path.stem != 'spine':
            text = path.read_text(encoding='utf-8')
            assert 'default_lora' not in text and not any(f'lora: {n}' in text or f'lora={n}' in text for n in names)
    assert not any('lora' == name for kind in (FinetuneSettings, GenerateSettings) for name in kind.model_fields)


@pytest.mark.skipif(not model_folder('spine').is_dir(), reason='the LoRA is not in this installation')
def test_shipped_weights_are_small_halves_that_fit_the_shipped_base():
    file = find_lora('spine')
    assert file.stat().st_size < 8 * 2**20 and read_seen('spine').labels.keys() == {'mr', 'ct', 'radiograph'}
    with safe_open(file, 'pt') as opened:
        assert {opened.get_tensor(name).dtype for name in opened.keys()} == {torch.float16}
    MedSoftPipeline.from_pretrained('medsoft-tiny').load_lora_weights('spine')


@pytest.mark.trains
def test_notebook_gives_a_lora(tmp_path):
    "The notebook at its smallest, on phantoms alone"
    settings = dict(run=str(tmp_path / 'run'), samples=8, steps=1, batch_size=4, rank=2)
    settings |= dict(windows=8, namer_steps=1, unseen=1, sample_steps=1)
    notebook = str(root / 'nbs/experiments/spine.ipynb')
    papermill.execute_notebook(
        notebook, str(tmp_path / 'done.ipynb'), settings, progress_bar=False, kernel_name='python3'
    )
    made = tmp_path / 'run/model'
    assert read_lora(made).ranks == {2}
    assert 'modic-3' in read_seen(made).labels['mr'] and not read_seen(made).patients
    assert patients_of(made) and (made / 'README.md').read_text().startswith('# spine')
    MedSoftPipeline.from_pretrained().load_lora_weights(made)
