"""Does memory stay flat? Many images painted one after another in one process.

    python benchmarks/soak.py                 # 2,000 images with the shipped base
    python benchmarks/soak.py --images 200 --steps 1

Each image has another seed, prompt, mask and size. It prints the resident
memory of the process after each tenth of the images, and ends with 1 where the last tenth is above the second by
more than `--rise`.
"""

import argparse, gc, sys
import numpy as np, psutil, torch
from medsoft_nb.core.seeds import torch_generator
from medsoft_nb.knowledge.prompts import compose
from medsoft_nb.lesions.shapes import random_mask
from medsoft_nb.lesions.soft import soften
from medsoft_nb.painting.pipeline import MedSoftPipeline
from medsoft_nb.phantom.spine import phantom
from medsoft_nb.phantom.tissues import CONTRASTS, MODALITY

LABELS = ('lytic', 'sclerotic', 'mixed', 'haemangioma', 'fracture')


def megabytes() -> float:
    "Resident memory of this process, in MB"
    gc.collect()
    return psutil.Process().memory_info().rss / 2**20


def paint(pipe: MedSoftPipeline, images: list, k: int, steps: int) -> np.ndarray:
    "Image number `k` of the soak"
    contrast = CONTRASTS[k % len(CONTRASTS)]
    image = images[k % len(images)][: 96 + k % 33]
    soft = soften(random_mask(image.shape, k, 'blob', (3, 9)), k % 8)
    prompt = compose(LABELS[k % len(LABELS)], MODALITY[contrast])
    settings = dict(num_inference_steps=steps, roi=64, generator=torch_generator('soak', k))
    return pipe(prompt, image, soft, **settings).images[0]


def soak(base: str, n: int, steps: int) -> list:
    "Memory after each tenth of `n` images, in MB"
    pipe = MedSoftPipeline.from_pretrained(base)
    pipe.set_progress_bar_config(disable=True)
    images = [phantom(k, contrast).image for k in range(20) for contrast in CONTRASTS]
    sizes = []
    for k in range(n):
        if not np.isfinite(paint(pipe, images, k, steps)).all():
            raise ValueError(f'image {k} is not finite.')
        if (k + 1) % (n // 10) == 0:
            sizes.append(megabytes())
            print(f'{k + 1:6d} images: {sizes[-1]:,.0f} MB', flush=True)
    return sizes


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--base', default='medsoft-tiny', help='name or folder')
    parser.add_argument('--images', type=int, default=2000, help='images, 20 or more')
    parser.add_argument('--steps', type=int, default=2, help='denoising steps of each')
    parser.add_argument('--rise', type=float, default=0.05, help='share by which memory may grow')
    args = parser.parse_args()
    if args.images < 20:
        parser.error(f'--images is {args.images}; give 20 or more.')
    torch.set_grad_enabled(False)
    measured = soak(args.base, args.images, args.steps)
    rise = measured[-1] / measured[1] - 1
    print(f'from the second tenth to the last: {rise:+.1%}')
    sys.exit(int(rise > args.rise))
