"""What fewer steps, another solver and guidance in a part of the steps save, and what they cost in quality.

    medsoft reproduce --profile quick --out runs/quick
    python benchmarks/presets.py runs/quick --images 40 --presets '{"fast": {"scheduler": "dpm++", "steps": 8}}'

The LoRA of the run paints the same lesions, from the same noise, with the settings of the profile and with each preset.
`cpu` is the profile's CPU time over the preset's, all of `generate` included. KID and borders are measured against the
lesions of the run's test patients, with their 95 % intervals; `another seed` shows what noise alone does to them.
`change` is the mean difference of grey from the profile's image, inside the lesion, of 255.
"""

import argparse, json, tempfile, time
from pathlib import Path
import numpy as np, pandas as pd
from medsoft_nb.core.images import image_grid
from medsoft_nb.data.manifest import HEALTHY, Manifest
from medsoft_nb.evaluation.quality import quality_table
from medsoft_nb.painting.generate import generate, GenerateConfig
from medsoft_nb.painting.pipeline import MedSoftPipeline

SHOWN = ('kid', 'edge_ratio', 'outer_edge_ratio', 'semantic_score')
PRESETS = {
    'dpm++, 10 steps': dict(scheduler='dpm++', steps=10),
    'dpm++, 8 steps': dict(scheduler='dpm++', steps=8),
    'dpm++, 8 steps, guidance in the first 3/4': dict(scheduler='dpm++', steps=8, interval=[0, 0.75]),
    'dpm++, 6 steps': dict(scheduler='dpm++', steps=6),
    'own solver, 10 steps': dict(steps=10),
    'own solver, guidance in the first half': dict(interval=[0, 0.5]),
}


def paint(pipe, train: Manifest, out: Path, lora: Path, config: GenerateConfig) -> tuple:
    "The images, and the CPU time that they took"
    begun = time.process_time()
    healthy, diseased = train.where(label=HEALTHY), train.where(label=train.diseases)
    made = generate(pipe, healthy, diseased, out, train.diseases, config, lora)
    return made, time.process_time() - begun


def change(made: Manifest, slow: Manifest) -> float:
    "Mean absolute difference of grey inside the lesion"
    inside = [slow.lesion_mask(k) > 0 for k in range(len(slow))]
    pairs = [(made.image(k).astype(float), slow.image(k).astype(float)) for k in range(len(slow))]
    return float(np.mean([np.abs(a - b)[m].mean() for (a, b), m in zip(pairs, inside)]))


def measure(run: Path, presets: dict, n: int, roi: int | None, sheet: Path | None) -> pd.DataFrame:
    "A row for the settings of the profile, for another seed of them, and for each preset"
    real = Manifest.load(run / 'data/manifest.csv')
    train, lora = real.where(split='train'), run / 'seed-0/trained/lora'
    pipe = MedSoftPipeline.from_pretrained('medsoft-tiny')
    pipe.set_progress_bar_config(disable=True)
    slow = GenerateConfig(n_per_label=n, ramp=6.0, roi=roi)
    settings = {'profile': slow, 'another seed': slow.replace(seed=1)}
    settings |= {name: slow.replace(**changes) for name, changes in presets.items()}
    made, seconds = {}, {}
    with tempfile.TemporaryDirectory() as d:
        paint(pipe, train, Path(d) / 'warm', lora, slow.replace(n_per_label=1))
        for k, (name, config) in enumerate(settings.items()):
            made[name], seconds[name] = paint(pipe, train, Path(d) / f'{k}', lora, config)
        reference = real.where(split='test', label=real.diseases)
        quality = quality_table(made, reference, sources=train.where(label=HEALTHY))
        changes = {name: change(m, made['profile']) for name, m in made.items() if name != 'another seed'}
        if sheet:
            images = [m.image(k) for m in made.values() for k in range(0, len(m), max(1, len(m) // 9))]
            image_grid(images, ncols=len(images) // len(made), row_titles=list(made)).save(sheet)
    quality = quality[quality.metric.isin(SHOWN)]
    shown = quality.assign(text=[f'{r.value:.3f} [{r.lo:.3f}, {r.hi:.3f}]' for r in quality.itertuples()])
    table = shown.pivot(index='arm', columns='metric', values='text').reindex(['real', *made])
    table.insert(0, 'change', pd.Series(changes).round(2))
    table.insert(0, 'cpu', pd.Series({name: seconds['profile'] / s for name, s in seconds.items()}).round(2))
    return table


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('run', type=Path, help='Folder of a finished run')
    parser.add_argument('--images', type=int, default=40, help='Images of each label')
    parser.add_argument('--roi', type=int, default=64, help="Side of the window; the base's own size is 128")
    parser.add_argument('--presets', type=json.loads, default=PRESETS, help='Name -> settings, as JSON')
    parser.add_argument('--sheet', type=Path, help='Contact sheet to write')
    a = parser.parse_args(argv)
    table = measure(a.run, a.presets, a.images, a.roi, a.sheet)
    print(table.to_markdown())
    return table


if __name__ == '__main__':
    main()
