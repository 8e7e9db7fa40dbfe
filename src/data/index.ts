// Public exports of the data folder: file formats, tokenizers, data sets.

export { loadTextFile, loadTextFiles, splitTokens, TokenDataset, type TokenWindow, unigramEntropy } from "./dataset.ts";
export { type Digits, syntheticDigits } from "./digits.ts";
export {
  isInside,
  makeFolder,
  removeStaleTemporaries,
  temporaryPrefix,
  writeFileAtomic,
  writeFolderAtomic,
} from "./files.ts";
export { decodeNpy, encodeNpy, type NpyArray } from "./npy.ts";
export {
  encodeSafetensors,
  openSafetensors,
  parseSafetensors,
  Safetensors,
  SafetensorsFile,
  type SafetensorsInput,
  type SafetensorsValues,
} from "./safetensors.ts";
export type { SafetensorsDType, SafetensorsHeader, SafetensorsInfo } from "./safetensors-header.ts";
export {
  byteTokenizer,
  decodeUtf8,
  encodeBytes,
  findInvalidUtf8,
  type StreamingDecoder,
  type TokenArray,
  type Tokenizer,
} from "./tokenizer.ts";
