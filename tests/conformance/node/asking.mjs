// What all clients ask: the same questions as tests/conformance/clients/asking.py.
import { readFileSync } from 'node:fs';
import { z } from 'zod';

export const baseURL = process.env.CONFORMANCE_URL;
export const MODEL = 'internvl-demo';
export const QUESTION = 'Describe the image.';
export const SEEN = /red star/;
export const image = readFileSync(process.env.CONFORMANCE_IMAGE);
export const imageURL = `data:image/jpeg;base64,${image.toString('base64')}`;

export const Shapes = z.object({
  count: z.number().int().min(0).max(9),
  colours: z.array(z.enum(['red', 'blue'])).min(1).max(2),
  size: z.int().nullable(),
});
export const City = z.object({ zip: z.number().int().min(10).max(99) });
