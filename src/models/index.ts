// Public exports of anekit/models.

export {
  type GeneratedToken,
  type GenerateOptions,
  generate,
  type SamplingOptions,
  TextGenerator,
} from "./generate.ts";
export { type DecodePosition, Gpt, type GptConfig, type GptForward, type GptOptions, gptConfig } from "./gpt.ts";
