import EngineModel

/// What a request's `model` may name: the served names, and the LoRA adapters that are loaded.
struct ModelCatalogue {
    struct Adapter: Equatable {
        let name: String
        let path: String
    }

    let names: [String]
    private(set) var adapters: [Adapter] = []

    init(names: [String], adapters: [Adapter] = []) {
        self.names = names
        self.adapters = adapters
    }

    /// The name for the answer, and the adapter if it is one. A model that is missing or empty means the first, as with vLLM.
    func resolve(_ model: String?) throws(WireError) -> (name: String, adapter: String?) {
        guard let model, !model.isEmpty, !names.contains(model) else { return (names[0], nil) }
        guard adapters.contains(where: { $0.name == model }) else {
            throw .unknownModel(model, known: names + adapters.map(\.name))
        }
        return (model, model)
    }

    /// The name of a loaded adapter that the engine knows by its id.
    func name(of id: AdapterID) -> String? { adapters.first { BlockHash.adapter(named: $0.name) == id }?.name }

    mutating func load(_ adapter: Adapter, inPlace: Bool) throws(WireError) {
        guard !adapter.path.isEmpty, adapter.path != StubLimits.missingAdapterPath else {
            throw WireError(
                status: 404, message: "Loading lora \(adapter.name) failed: No adapter found for \(adapter.path)",
                type: "NotFoundError", param: nil)
        }
        if let index = adapters.firstIndex(where: { $0.name == adapter.name }) {
            guard inPlace else {
                throw WireError(
                    status: 400,
                    message: "The lora adapter '\(adapter.name)' has already been loaded. If you want to load the adapter in place, "
                        + "set 'load_inplace' to True.", type: "InvalidUserInput", param: nil)
            }
            adapters[index] = adapter
        } else {
            guard adapters.count < StubLimits.adapters else {
                throw WireError(status: 400, message: "too many adapters", type: "InvalidUserInput", param: nil)
            }
            adapters.append(adapter)
        }
    }

    mutating func unload(_ name: String) throws(WireError) {
        guard let index = adapters.firstIndex(where: { $0.name == name }) else {
            throw WireError(
                status: 404, message: "The lora adapter '\(name)' cannot be found.", type: "NotFoundError", param: nil)
        }
        adapters.remove(at: index)
    }
}
