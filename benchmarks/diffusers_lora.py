"""What diffusers' own LoRA scripts do in a step, for inpainting: the other side of `training.py`.

Written from the description of those scripts, with the classes that they use. Image and mask files are read at every
step, the autoencoder and the text encoder run at every step, the U-Net has a LoRA of peft, the optimiser is AdamW.
"""

import numpy as np, torch
import torch.nn.functional as F
from accelerate import Accelerator
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from diffusers.optimization import get_scheduler
from peft import LoraConfig
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from transformers import CLIPTextModel, CLIPTokenizer


class Pictures(Dataset):
    "Image, mask and token ids of each row: a window around the mask, flipped now and then"

    def __init__(self, rows: list, size: int, tokenizer):
        self.rows, self.size, self.tokenizer = rows, size, tokenizer

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, k):
        image, mask, prompt = self.rows[k]
        x, m = (np.asarray(Image.open(path).convert('L'), np.float32) / 255 for path in (image, mask))
        where = np.argwhere(m > 0.5)
        corner = np.clip(where.mean(0).astype(int) - self.size // 2, 0, np.subtract(m.shape, self.size))
        cut = tuple(slice(start, start + self.size) for start in corner)
        x, m = (torch.from_numpy(part[cut].copy())[None] for part in (x, m))
        if torch.rand(()) < 0.5:
            x, m = x.flip(-1), m.flip(-1)
        length = dict(padding='max_length', max_length=self.tokenizer.model_max_length, truncation=True)
        return x * 2 - 1, (m > 0.5).float(), self.tokenizer(prompt, return_tensors='pt', **length).input_ids[0]


class Loop:
    "Networks, optimiser and data; `step` is one step of training"

    def __init__(self, base: str, rows: list, size: int, batch: int, rank: int, targets: list, rate: float):
        parts = dict(vae=AutoencoderKL, unet=UNet2DConditionModel, text_encoder=CLIPTextModel)
        for name, cls in parts.items():
            network = cls.from_pretrained(base, subfolder=name, dtype=torch.float32, use_safetensors=True)
            setattr(self, name, network.requires_grad_(False))
        self.tokenizer = CLIPTokenizer.from_pretrained(base, subfolder='tokenizer')
        self.noise_scheduler = DDIMScheduler.from_pretrained(base, subfolder='scheduler')
        self.accelerator = Accelerator(cpu=True)
        lora = LoraConfig(r=rank, lora_alpha=rank, init_lora_weights='gaussian', target_modules=list(targets))
        self.unet.add_adapter(lora)
        self.unet.train()
        self.trained = [p for p in self.unet.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(self.trained, lr=rate)
        schedule = get_scheduler('constant', optimizer)
        data = DataLoader(Pictures(rows, size, self.tokenizer), batch, shuffle=True, drop_last=True)
        prepared = self.accelerator.prepare(self.unet, optimizer, data, schedule)
        self.unet, self.optimizer, self.data, self.schedule = prepared
        self.batches = iter(())

    def next_batch(self) -> list:
        "The next batch; a new pass begins where one ends"
        batch = next(self.batches, None)
        if batch is None:
            self.batches = iter(self.data)
            batch = next(self.batches)
        return batch

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        "Latents of images in [-1, 1]"
        x = x.expand(-1, self.vae.config.in_channels, -1, -1)
        with torch.no_grad():
            return self.vae.encode(x).latent_dist.sample() * self.vae.config.scaling_factor

    def step(self) -> float:  # The loss
        x, mask, ids = self.next_batch()
        with self.accelerator.accumulate(self.unet):
            z, masked = self.encode(x), self.encode(x * (mask < 0.5))
            small = F.interpolate(mask, z.shape[-2:])
            noise = torch.randn_like(z)
            t = torch.randint(0, self.noise_scheduler.config.num_train_timesteps, (len(z),))
            noisy = self.noise_scheduler.add_noise(z, noise, t)
            velocity = self.noise_scheduler.config.prediction_type == 'v_prediction'
            target = self.noise_scheduler.get_velocity(z, noise, t) if velocity else noise
            with torch.no_grad():
                text = self.text_encoder(ids)[0]
            out = self.unet(torch.cat([noisy, small, masked], 1), t, text).sample
            loss = F.mse_loss(out.float(), target.float())
            self.accelerator.backward(loss)
            self.accelerator.clip_grad_norm_(self.trained, 1.0)
            self.optimizer.step()
            self.schedule.step()
            self.optimizer.zero_grad()
        return loss.item()
