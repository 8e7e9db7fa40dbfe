import { expect, test } from "vitest";
import { compile } from "../engines/compile.ts";
import { constant, input, parameter, type Tensor } from "../tensor.ts";
import { checkpoint, customGradient, grad, stopGradient, valueAndGrad } from "./grad.ts";

async function values(
  outputs: Record<string, Tensor>,
  feeds: Record<string, number[]> = {},
): Promise<Record<string, number[]>> {
  await using program = await compile(outputs, { engine: "sim" });
  const results = program.runSync(feeds);
  return Object.fromEntries(
    Object.entries(results).map(([name, array]) => [name, Array.from(array.data as ArrayLike<number>)]),
  );
}

const x32 = () => input([3], { name: "x", dtype: "fp32" });

test("a value used twice gets the sum of both cotangents", async () => {
  const x = x32();
  const [dx] = grad(x.mul(x).add(x).sum(), [x]);
  expect((await values({ dx: dx! }, { x: [1, -2, 0.5] })).dx).toEqual([3, -3, 2]);
});

test("second derivatives are derivatives of gradients", async () => {
  const x = x32();
  const [first] = grad(x.mul(x).mul(x).sum(), [x]);
  const [second] = grad(first!.sum(), [x]);
  expect((await values({ second: second! }, { x: [1, -2, 0.5] })).second).toEqual([6, -12, 3]);
});

test("targets may be intermediate values, also ones that other targets depend on", async () => {
  const x = x32();
  const h = x.mul(2);
  const [dh, dx] = grad(h.square().sum(), [h, x]);
  const got = await values({ dh: dh!, dx: dx! }, { x: [1, 2, 3] });
  expect(got.dh).toEqual([4, 8, 12]);
  expect(got.dx).toEqual([8, 16, 24]);
});

test("stopGradient and customGradient replace what flows back", async () => {
  const x = x32();
  const [stopped] = grad(stopGradient(x).mul(x).sum(), [x]);
  expect((await values({ stopped: stopped! }, { x: [1, 2, 3] })).stopped).toEqual([1, 2, 3]);
  const straight = customGradient(x.round(), [x], (g) => [g.mul(10)]);
  const [through] = grad(straight.sum(), [x]);
  const got = await values({ straight, through: through! }, { x: [1.4, 2.6, 3] });
  expect(got.straight).toEqual([1, 3, 3]);
  expect(got.through).toEqual([10, 10, 10]);
});

test("checkpoint gives the same gradients from a backward graph that computes the body again", async () => {
  const x = x32();
  const w = parameter([1, 2, 3], [3], { name: "w", dtype: "fp32" });
  const body = (a: Tensor, b: Tensor) => a.mul(b).exp().sin();
  const plain = grad(body(x, w).sum(), [x, w]);
  const again = grad(checkpoint(body, x, w).sum(), [x, w]);
  const got = await values({ a: plain[0]!, b: plain[1]!, c: again[0]!, d: again[1]! }, { x: [0.1, 0.2, 0.3] });
  expect(got.c).toEqual(got.a);
  expect(got.d).toEqual(got.b);
});

test("a loss scale is the cotangent it starts from", async () => {
  const x = x32();
  const scale = input([], { name: "scale", dtype: "fp32" });
  const [dx] = grad(x.sum(), [x], { cotangent: scale });
  expect((await values({ dx: dx! }, { scale: [1024] })).dx).toEqual([1024, 1024, 1024]);
});

test("checkpoint has second derivatives too, and refuses what it would lose", async () => {
  const x = x32();
  const y = checkpoint((a) => a.mul(a).mul(a), x).add(x.square());
  const { value, grads } = valueAndGrad(y.sum(), [x]);
  const [second] = grad(grads[0]!.sum(), [x]);
  const got = await values({ value, second: second! }, { x: [2, 0, -1] });
  expect(got.value).toEqual([12]);
  expect(got.second).toEqual([14, 2, -4]);
  const w = parameter([1], [1], { name: "w", dtype: "fp32" });
  expect(() => checkpoint((a) => a.mul(w), x)).toThrow('the body uses "w", which is not among its inputs; pass it in');
});

test("misuse is refused with the facts", () => {
  const x = x32();
  const y = input([2], { name: "y", dtype: "fp32" });
  expect(() => grad(x, [x])).toThrow("grad: the differentiated tensor is fp32[3], not a scalar");
  expect(() => grad(x.sum(), [y])).toThrow('does not depend on target "y" (fp32[2])');
  expect(() => grad(x.floor().sum(), [x])).toThrow("through differentiable operators");
  expect(() => grad(x.sum(), [constant([1], [1], { dtype: "int32" })])).toThrow("expected fp16 or fp32");
});

test("a chain ten thousand operators deep is no deeper for the stack", () => {
  let y: Tensor = x32();
  const x = y;
  for (let i = 0; i < 10_000; i++) y = y.mul(0.999);
  expect(grad(y.sum(), [x])[0]!.shape).toEqual([3]);
});
