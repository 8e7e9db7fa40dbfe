// Tensors and gradients: build a graph, compile it, run it; differentiate a loss and descend it with resident weights.
// Run: npx tsx examples/01-tensor.ts

import { compile, constant, grad, input, parameter } from "anekit";

// Methods build a graph and compute nothing; compile turns the graph into one program on an engine.
const W = constant([
  [1, 2],
  [3, 4],
  [5, 6],
]);
await using net = await compile({ x: [2, 3] }, ({ x }) => ({ y: x.matmul(W).relu(), total: x.sum() }));
const { y, total } = await net.run({
  x: [
    [1, 0, -1],
    [0.5, 0.5, 0.5],
  ],
});
console.log(`engine ${net.engine.name}: y =`, y.toNested(), "total =", total.item());

// A parameter is state: it stays on the engine and changes only through the program's update.
const x = input([4, 2], { name: "x" });
const target = input([4, 1], { name: "target" });
const w = parameter([[0], [0]], [2, 1], { name: "w" });
const loss = x.matmul(w).sub(target).square().mean();
const [dw] = grad(loss, [w]) as [typeof w];
await using step = await compile({ loss }, { update: new Map([[w, w.sub(dw.mul(0.1))]]) });

const points = [
  [1, 0],
  [0, 1],
  [1, 1],
  [1, -1],
];
const targets = points.map(([a, b]) => [2 * a! - 3 * b!]);
for (let i = 0; i < 60; i++) {
  const result = await step.run({ x: points, target: targets });
  if (i % 20 === 0) console.log(`step ${i}: loss ${result.loss.item().toFixed(4)}`);
}
console.log("learned w =", step.state.read(w).toNested(), "(the targets were made with 2 and -3)");
