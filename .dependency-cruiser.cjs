// Which folder may import which, checked on value imports (types may point anywhere). The order is docs and design in one:
// core <- chips, ir <- ops <- tensor <- autodiff, passes, mil <- engines <- nn, optim, data <- train, models <- cli, tui, serve.

/** Levels from the bottom up; a folder imports from its own level and from those below it. */
const levels = [
  ["core/"],
  ["chips/", "ir/"],
  ["ops/"],
  ["tensor\\.ts"],
  ["autodiff/", "passes/", "mil/"],
  ["engines/"],
  ["nn/", "optim/", "data/"],
  ["index\\.ts"],
  ["train/", "models/"],
  ["cli/", "tui/", "serve/"],
];

const any = (paths) => `^src/(${paths.join("|")})`;
const source = { pathNot: "\\.test\\.ts$" };
const portable = {
  path: "^src/((core|chips|ir|ops|autodiff|passes|mil|engines/sim|nn|optim)/|engines/[^/]+\\.ts$|[^/]+\\.ts$)",
  ...source,
};

const upward = levels.slice(0, -1).map((paths, level) => ({
  name: `upward-from-${paths.map((path) => path.replace(/[\\/]|\.ts/g, "")).join("-")}`,
  comment: "Imports point down the levels listed in .dependency-cruiser.cjs.",
  severity: "error",
  from: { path: any(paths), ...source },
  to: {
    path: any(levels.slice(level + 1).flat()),
    // Programs are built from operator records and checked by them: the one edge between two levels that points up.
    ...(paths.includes("ir/") && { pathNot: "^src/ops/(define|index)\\.ts$" }),
  },
}));

module.exports = {
  forbidden: [
    ...upward,
    {
      name: "data-is-plain",
      comment: "Files, tokenizers and data sets know nothing of tensors.",
      severity: "error",
      from: { path: "^src/data/", ...source },
      to: { path: "^src/", pathNot: "^src/(core|data)/" },
    },
    {
      name: "index-is-portable",
      comment: "`anekit` itself loads in a browser; what needs Node is a subpath.",
      severity: "error",
      from: { path: "^src/index\\.ts$" },
      to: { path: "^src/(nn|optim|data)/" },
    },
    {
      name: "portable-without-node",
      comment: "Graphs, programs, the simulator, layers and optimizers load in a browser: no module of Node.",
      severity: "error",
      from: portable,
      to: { dependencyTypes: ["core"] },
    },
    {
      name: "portable-without-ffi",
      comment: "As above: no foreign functions.",
      severity: "error",
      from: portable,
      to: { path: "(^|/)(koffi|@koromix)(/|$)" },
    },
    {
      name: "engines-open-lazily",
      comment: "Only src/engines/open.ts names an engine's folder, so that an engine is loaded when it is asked for.",
      severity: "error",
      from: { path: "^src/", pathNot: "^src/engines/(open\\.ts$|[^/]+/)|\\.test\\.ts$" },
      to: { path: "^src/engines/[^/]+/" },
    },
    {
      name: "engines-apart",
      comment: "An engine does not import another engine.",
      severity: "error",
      from: { path: "^src/engines/([^/]+)/", ...source },
      to: { path: "^src/engines/[^/]+/", pathNot: "^src/engines/(os|$1)/" },
    },
    {
      name: "engines-by-dynamic-import",
      comment: "open.ts loads engines with import(), never statically.",
      severity: "error",
      from: { path: "^src/engines/open\\.ts$" },
      to: { path: "^src/engines/[^/]+/", dynamic: false },
    },
    {
      name: "no-cycles",
      comment: "A cycle makes loading order matter.",
      severity: "error",
      from: { path: "^src/" },
      to: { circular: true },
    },
    {
      name: "no-development-packages",
      comment: "What is published imports only `dependencies` and optional peers.",
      severity: "error",
      from: { path: "^src/", ...source },
      to: { dependencyTypes: ["npm-dev", "npm-no-pkg", "npm-unknown"] },
    },
    {
      name: "resolvable",
      comment: "An import that resolves to nothing.",
      severity: "error",
      from: {},
      to: { couldNotResolve: true },
    },
    {
      name: "tests-stay-out",
      comment: "Source does not import tests, scripts or benchmarks.",
      severity: "error",
      from: { path: "^src/", ...source },
      to: { path: "^(test|scripts|bench|examples)/|\\.test\\.ts$" },
    },
  ],
  options: {
    doNotFollow: { path: "node_modules" },
    tsPreCompilationDeps: false,
    tsConfig: { fileName: "tsconfig.json" },
    enhancedResolveOptions: { exportsFields: ["exports"], conditionNames: ["import", "node", "default", "types"] },
  },
};
