"Settings are checked at the door: profiles, notebooks, command line."

import ast
import papermill, pytest, yaml
from command import medsoft
from medsoft_nb.core.files import notebooks_path
from medsoft_nb.phantom.benchmarks import make_benchmark
from medsoft_nb.running.layout import layout
from medsoft_nb.running.notebook_settings import NOTEBOOK_SETTINGS
from medsoft_nb.running.profile import load_profile, profile_names


@pytest.fixture
def refused(tmp_path, monkeypatch):
    "Check that a dry run of the quick profile with some settings changed ends with status 2 and one sentence"
    monkeypatch.setenv('COLUMNS', '1000')

    def check(sentence, changes, *words):
        profile = {**load_profile('quick')}
        for step, settings in changes.items():
            profile[step] = {**profile[step], **settings} if isinstance(settings, dict) else settings
        (tmp_path / 'mine.yml').write_text(yaml.safe_dump(profile))
        out = tmp_path / 'run'
        code, text = medsoft('reproduce', '--profile', tmp_path / 'mine.yml', '--out', out, '--dry-run', *words)
        assert code == 2 and sentence in text and 'Traceback' not in text, text
        assert text.startswith('Error: mine.yml') and len(text.splitlines()) == 1, text
        assert not out.exists()

    return check


def test_a_number_that_yaml_reads_as_text_is_a_number(tmp_path):
    "`learning_rate: 2e-3` is text to YAML"
    (tmp_path / 'mine.yml').write_text('seeds: [0]\nclassify: {learning_rate: 2e-3}\nfinetune: {steps: "7"}')
    _, (experiment,) = layout(tmp_path / 'mine.yml', tmp_path / 'run')
    given = {job.step: job.parameters for job in experiment.jobs}
    assert given['classify']['learning_rate'] == 0.002 and given['finetune']['steps'] == 7


@pytest.mark.parametrize(
    'sentence, changes',
    [
        ("finetune: `steps` is 'ten'; it should be a valid integer", {'finetune': {'steps': 'ten'}}),
        ('finetune: `steps` is 0; it should be greater than or equal to 1.', {'finetune': {'steps': 0}}),
        ('there is no setting `stpes`; did you mean `steps`?', {'finetune': {'stpes': 3}}),
        ("unknown arm 'lora-smsi'. Did you mean 'lora-smis'?", {'arms': ['base', 'lora-smsi']}),
        ("finetune: `base` is 'nowhere': unknown base model 'nowhere'", {'finetune': {'base': 'nowhere'}}),
        ("finetune: `encoder` is 'nowhere': unknown encoder", {'finetune': {'encoder': 'nowhere'}}),
        ("finetune: `controller` is 'nowhere': nowhere holds no controller", {'finetune': {'controller': 'nowhere'}}),
        ("quality: `extractor` is 'nowhere': unknown extractor", {'quality': {'extractor': 'nowhere'}}),
        ("unknown backbone 'nowhere'", {'classify': {'backbone': 'nowhere'}}),
        ("unknown benchmark. Known: phantom-tumour", {'prepare': {'benchmark': 'phantom-tumor'}}),
        ("unknown arm 'classic'. Did you mean 'classical'?", {'classify': {'controls': ['classic']}}),
        ("`healthy` is true, but 'lora-smis' is not among the arms", {'arms': ['base', 'lora-hard']}),
        ("unknown arm 'lora-smis+adapted'. Did you mean 'lora-smis+adapt'?", {'arms': ['lora-smis+adapted']}),
        ("unknown arm 'faithful+pasted'", {'arms': ['lora-smis', 'faithful+pasted']}),
        ('finetune: `adapt_steps` is 0; it should be greater than or equal to 1.', {'finetune': {'adapt_steps': 0}}),
        ('generate: `strength` is 1.5; it should be less than or equal to 1.', {'generate': {'strength': 1.5}}),
        ('`strength` is 0.02, which rounds to none of 20 steps', {'generate': {'strength': 0.02}}),
        ("unknown variant 'augment'. Did you mean 'augmented'? Known, for all arms", {'variants': ['augment']}),
        ("'faithful+sham' asks for the arm 'faithful'", {'variants': ['faithful+sham']}),
        ("classify: `variants` needs healthy images that the arm 'base'", {'classify': {'variants': ['base+sham']}}),
        ('`n_diseased` is 1000, but train has', {'prepare': {'n_diseased': 1000}}),
        ('`ratios` has 50, which means 1000 synthetic', {'classify': {'ratios': [50]}}),
        ('they add up to 0.9, and must add up to 1.', {'prepare': {'fractions': [0.5, 0.1, 0.3]}}),
        ('`seeds` is [0, 0]: list different ones', {'seeds': [0, 0]}),
    ],
)
def test_a_wrong_setting_ends_at_the_door(refused, sentence, changes):
    refused(sentence, changes)


def test_a_manifest_with_too_few_diseased_images_ends_at_the_door(refused, tmp_path):
    make_benchmark('phantom-tumour', tmp_path / 'data', n_healthy=12, n_diseased=18, size=32)
    few = '`n_diseased` is 20, but train has'
    refused(few, {}, '--manifest', tmp_path / 'data/manifest.csv')


@pytest.mark.parametrize('name', profile_names())
def test_shipped_profiles_are_right(name):
    "That of the paper needs a manifest: the benchmark of phantoms is too small for it. Another one names none"
    needs_manifest = {'paper': '`n_diseased` is 100, but train has 24', 'real-glioma': 'are both empty; name one'}
    if name in needs_manifest:
        with pytest.raises(ValueError, match=needs_manifest[name]):
            layout(name)
    else:
        assert layout(name)[1]


@pytest.mark.parametrize('name', sorted(path.stem for path in notebooks_path().glob('*.ipynb')))
def test_settings_and_parameters_of_notebooks_agree(name):
    "Names, defaults and what they mean"
    model = NOTEBOOK_SETTINGS[name]
    declared = papermill.inspect_notebook(str(notebooks_path(f'{name}.ipynb')))
    defaults = {key: ast.literal_eval(found['default']) for key, found in declared.items()}
    assert defaults == model().model_dump()
    meanings = {key: found['help'] for key, found in declared.items()}
    assert meanings == {key: field.description for key, field in model.model_fields.items()}


@pytest.mark.parametrize('name', sorted(NOTEBOOK_SETTINGS))
def test_every_notebook_checks_its_parameters_first(name):
    from medsoft_nb.running.notebooks import code_cells

    parameters, imports, check, *_ = code_cells(notebooks_path(f'{name}.ipynb'))
    assert check == f"settings = check_notebook('{name}', globals())"


def test_ranges_are_those_of_what_the_steps_call():
    "A step's settings admit what training, painting and classification admit"
    from medsoft_nb.painting.generate import GenerateConfig
    from medsoft_nb.training.stages import Training

    for step, model in (('finetune', Training), ('generate', GenerateConfig)):
        for name, field in NOTEBOOK_SETTINGS[step].model_fields.items():
            theirs = model.model_fields.get(name)
            if theirs and name not in ('roi', 'blend', 'ramp', 'seed', 'strength'):
                assert (field.annotation, field.metadata) == (theirs.annotation, theirs.metadata), name
