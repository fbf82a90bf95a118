"A LoRA at the command line: applied at its strength whatever its layout, or refused before the base is loaded"

import os
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from unittest.mock import patch
import pytest, torch
from peft import get_peft_model, LoraConfig
from safetensors.torch import load_file, save_file
from medsoft_nb.apps.cli import main
from medsoft_nb.data.manifest import Manifest
from medsoft_nb.models.base import load_base
from medsoft_nb.models.lora_files import LORA_FILE, PEFT_CONFIG, read_lora
from medsoft_nb.phantom.benchmarks import make_benchmark

pytestmark = pytest.mark.trains


def medsoft(*words):
    "A command: exit status and what it said"
    said = StringIO()
    wide = patch.dict(os.environ, COLUMNS='1000', MEDSOFT_PROGRESS='0')
    with redirect_stdout(said), redirect_stderr(said), wide:
        try:
            main([str(word) for word in words])
            code = 0
        except SystemExit as end:
            code = end.code
    return code or 0, ' '.join(said.getvalue().split())


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    "A manifest, and one LoRA as peft and as diffusers write it"
    d = tmp_path_factory.mktemp('lora')
    make_benchmark('phantom-tumour', d / 'data', n_healthy=4, n_diseased=3, seed=0)
    torch.manual_seed(0)
    config = LoraConfig(r=4, lora_alpha=8, target_modules=['to_q', 'to_v'], init_lora_weights=False)
    get_peft_model(load_base()['unet'], config).save_pretrained(d / 'peft')
    (d / 'plain').mkdir()
    layers = read_lora(d / 'peft').layers.items()
    plain = {f'unet.{name.removeprefix("base_model.model.")}': pair for name, pair in layers}
    downs = {f'{name}.lora_A.weight': pair.down for name, pair in plain.items()}
    save_file(downs | {f'{name}.lora_B.weight': pair.up for name, pair in plain.items()}, d / 'plain' / LORA_FILE)
    return d


def generate(folder, out, *words):
    "Two lesions"
    options = ('--labels', 'lytic', '-n', 2, '--steps', 2, '--out', folder / out)
    return medsoft('generate', folder / 'data/manifest.csv', *options, *words)


def test_peft_and_diffusers_give_the_same_images(folder):
    given = dict(base=(), peft=('--lora', folder / 'peft'), plain=('--lora', folder / 'plain' / LORA_FILE))
    for name, words in given.items():
        code, text = generate(folder, f'made with {name}', *words)
        assert code == 0, text
    base, peft, plain = (Manifest.load(folder / f'made with {name}' / 'manifest.csv') for name in given)
    assert len(base) == 2 and peft.df.lora.nunique() == 1 and not base.df.lora.any()
    for k in range(2):
        assert (peft.image(k) != base.image(k)).any()
        assert (peft.image(k) == plain.image(k)).all()


def broken_files(folder):
    "LoRA files that cannot be used, and what is said of each"
    good = load_file(folder / 'plain' / LORA_FILE)
    yield good | {next(iter(good)): next(iter(good.values())) * torch.nan}, 'are not finite'
    yield {name.replace('unet.', 'transformer.'): tensor for name, tensor in good.items()}, 'match no module'
    yield {f'base_model.model.{name}': tensor for name, tensor in good.items()}, f'{PEFT_CONFIG} is not beside it'


def test_what_cannot_be_used_ends_before_anything_is_written(folder):
    for k, (tensors, said) in enumerate(broken_files(folder)):
        file = folder / f'broken-{k}.safetensors'
        save_file(tensors, file)
        for command in ('generate', 'train'):
            rest = ('--rank', 4) if command == 'train' else ('--labels', 'lytic')
            code, text = medsoft(command, folder / 'data/manifest.csv', '--lora', file, '--out', folder / 'no', *rest)
            assert code == 2 and said in text and file.name in text, text
            assert not Path(folder / 'no').exists()
