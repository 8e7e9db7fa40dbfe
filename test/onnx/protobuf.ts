// A reader of the protobuf wire format, as far as ONNX test files need it: tensors, and the operator of a one-node model.

import { readFileSync } from "node:fs";

/** Fields of a message by number, in order: varints as bigint, the rest as bytes. */
type Message = ReadonlyMap<number, readonly (bigint | Uint8Array)[]>;

function varint(bytes: Uint8Array, from: number): { value: bigint; next: number } {
  let value = 0n;
  for (let at = from, shift = 0n; ; at++, shift += 7n) {
    const byte = bytes[at];
    if (byte === undefined) throw new Error("the message ends inside a number");
    value |= BigInt(byte & 0x7f) << shift;
    if (byte < 0x80) return { value, next: at + 1 };
  }
}

function parse(bytes: Uint8Array): Message {
  const fields = new Map<number, (bigint | Uint8Array)[]>();
  for (let at = 0; at < bytes.length; ) {
    const key = varint(bytes, at);
    const [field, wire] = [Number(key.value >> 3n), Number(key.value & 7n)];
    let value: bigint | Uint8Array;
    if (wire === 0) ({ value, next: at } = varint(bytes, key.next));
    else {
      const length = wire === 2 ? varint(bytes, key.next) : { value: wire === 5 ? 4n : 8n, next: key.next };
      if (![1, 2, 5].includes(wire)) throw new Error(`wire type ${wire} is not supported`);
      at = length.next + Number(length.value);
      if (at > bytes.length) throw new Error("the message ends inside a field");
      value = bytes.subarray(length.next, at);
    }
    const list = fields.get(field);
    if (list === undefined) fields.set(field, [value]);
    else list.push(value);
  }
  return fields;
}

/** Repeated integers, packed or not. */
function integers(message: Message, field: number): number[] {
  return (message.get(field) ?? []).flatMap((value) => {
    if (typeof value === "bigint") return [Number(BigInt.asIntN(64, value))];
    const list: number[] = [];
    for (let at = 0; at < value.length; ) {
      const each = varint(value, at);
      list.push(Number(BigInt.asIntN(64, each.value)));
      at = each.next;
    }
    return list;
  });
}

const viewOf = (bytes: Uint8Array) => new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
const textOf = (value: bigint | Uint8Array | undefined) => new TextDecoder().decode(value as Uint8Array);

function floats(bytes: Uint8Array): number[] {
  return Array.from({ length: bytes.length / 4 }, (_, i) => viewOf(bytes).getFloat32(4 * i, true));
}

export interface OnnxTensor {
  readonly name: string;
  readonly shape: readonly number[];
  readonly values: readonly number[];
}

/** A TensorProto file of floats, int32 or int64. */
export function readTensor(path: string): OnnxTensor {
  const message = parse(readFileSync(path));
  const [type] = integers(message, 2);
  const raw = message.get(9)?.[0] as Uint8Array | undefined;
  let values: number[];
  if (type === 1) values = floats(raw ?? (message.get(4)?.[0] as Uint8Array));
  else if (type === 7 && raw !== undefined)
    values = Array.from({ length: raw.length / 8 }, (_, i) => Number(viewOf(raw).getBigInt64(8 * i, true)));
  else if (type === 6 && raw !== undefined)
    values = Array.from({ length: raw.length / 4 }, (_, i) => viewOf(raw).getInt32(4 * i, true));
  else throw new Error(`${path}: tensors of type ${type} are not supported`);
  return { name: textOf(message.get(8)?.[0]), shape: integers(message, 1), values };
}

export interface OnnxOperator {
  readonly type: string;
  readonly inputs: readonly string[];
  readonly outputs: readonly string[];
  readonly attributes: ReadonlyMap<string, number | string>;
}

/** The only node of a model file. */
export function readOperator(path: string): OnnxOperator {
  const graph = parse(parse(readFileSync(path)).get(7)![0] as Uint8Array);
  const nodes = graph.get(1)!;
  if (nodes.length !== 1) throw new Error(`${path}: ${nodes.length} nodes, expected one`);
  const node = parse(nodes[0] as Uint8Array);
  const attributes = (node.get(5) ?? []).map((bytes): [string, number | string] => {
    const attribute = parse(bytes as Uint8Array);
    const name = textOf(attribute.get(1)![0]);
    const float = attribute.get(2)?.[0] as Uint8Array | undefined;
    if (float !== undefined) return [name, floats(float)[0]!];
    const text = attribute.get(4)?.[0];
    return [name, text === undefined ? integers(attribute, 3)[0]! : textOf(text)];
  });
  return {
    type: textOf(node.get(4)![0]),
    inputs: (node.get(1) ?? []).map(textOf),
    outputs: (node.get(2) ?? []).map(textOf),
    attributes: new Map(attributes),
  };
}
