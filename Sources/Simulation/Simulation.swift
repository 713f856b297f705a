// Simulation judges routing rules on a virtual clock: engines are `EngineModel`'s, decisions are those of `Routing`, the very code
// that the proxy runs, and thousands of requests take a second.
//
// Reading order:
//   1. `SimulatedWorkload`: a `LoadPlan` as chains of block hashes; no text is made.
//   2. `SimulatedFleet`: groups, routers, how old their reports are, and what happens to groups meanwhile.
//   3. `FleetSimulation`: the event loop.
//   4. `RoutingRule` and `PublishedRule`: ours, and the rules that others publish, on the same accounts, index and reports.
//   5. `SimulationOutcome`, `SimulationSummary`: one run, and several seeds of it with their intervals.
//   6. `SimulationSuite`: the rows on which rules are compared, and `SimulationReport` what is shown of them.

/// Tokens per block of the engines, and per chunk of the routers' index.
let simulatedBlockTokens = 64
/// Bytes that routers take a token for, and learn nothing else: prompts are counted in tokens here.
let simulatedBytesPerToken = 4
