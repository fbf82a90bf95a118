"""What the layout of weights is worth on a processor: channels last, as `load_base` lays them out, against the files'.

    python benchmarks/layout.py

The same weights in float32 and the same inputs, one after the other in every round, on one thread. Figures are CPU time in the files' layout / in ours: above 1, ours is faster.
"""

import argparse, copy, time
import pandas as pd, torch
from peft import LoraConfig
from medsoft_nb.models.base import load_base

WINDOWS = ((2, 64), (8, 64), (2, 128), (8, 128))  # How many, and their side in pixels


def calls(base: dict, n: int, side: int) -> dict:
    "What is timed, by name: functions without arguments"
    unet, vae = base['unet'], base['vae']
    latent = side // 2 ** (len(vae.config.block_out_channels) - 1)
    torch.manual_seed(0)
    seen = torch.randn(n, unet.config.in_channels, latent, latent)
    given = torch.tensor([10]), torch.randn(n, 32, unet.config.cross_attention_dim)
    image, z = torch.randn(n, vae.config.in_channels, side, side), torch.randn(n, 4, latent, latent)

    def frozen(call):
        def timed():
            with torch.inference_mode():
                call()

        return timed

    return {
        'U-Net': frozen(lambda: unet(seen, *given)),
        'encoder': frozen(lambda: vae.encode(image)),
        'decoder': frozen(lambda: vae.decode(z)),
        'U-Net, forward and backward through a LoRA': lambda: unet(seen, *given).sample.square().mean().backward(),
    }


def cpu_time(call) -> float:  # Seconds
    before = time.process_time()
    call()
    return time.process_time() - before


def compare(ours: dict, theirs: dict, rounds: int, n: int, side: int) -> list:
    "A row for each network"
    rows = []
    for (name, mine), other in zip(calls(ours, n, side).items(), calls(theirs, n, side).values()):
        times = pd.DataFrame([dict(ours=cpu_time(mine), theirs=cpu_time(other)) for _ in range(rounds + 1)])[1:]
        ratio = times.theirs.median() / times.ours.median()
        rows.append({'network': name, 'windows': n, 'side': side, 'ratio': round(ratio, 2)})
    return rows


if __name__ == '__main__':
    parser = argparse.ArgumentParser()
    parser.add_argument('--base', default='medsoft-tiny')
    parser.add_argument('--rounds', type=int, default=9)
    a = parser.parse_args()
    torch.set_num_threads(1)
    ours = load_base(a.base, device='cpu', dtype=torch.float32)
    ours['unet'].add_adapter(LoraConfig(r=8, lora_alpha=8, target_modules=['to_q', 'to_k', 'to_v', 'to_out.0']))
    theirs = {part: copy.deepcopy(ours[part]).to(memory_format=torch.contiguous_format) for part in ('unet', 'vae')}
    rows = [row for n, side in WINDOWS for row in compare(ours, theirs, a.rounds, n, side)]
    table = pd.DataFrame(rows).pivot(index='network', columns=['windows', 'side'], values='ratio')
    print(table.to_string())
