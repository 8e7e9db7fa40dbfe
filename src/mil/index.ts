// Public exports of anekit/mil: text and weight files to programs and back.

export { printProgram } from "../ir/print.ts";
export type { Instruction, Port, Program } from "../ir/program.ts";
export * from "./ast.ts";
export { type BlobDType, BlobWriter, listBlobs, readBlob } from "./blob.ts";
export { parseMil } from "./parser.ts";
export { printMil } from "./printer.ts";
export { type ReadOptions, readFunction, readMil } from "./reader.ts";
export { type MilOptions, milFiles, writeMil } from "./writer.ts";
