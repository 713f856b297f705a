import EngineModel

/// Where a prompt's KV blocks can be fetched: what passes from a prefill engine through the router to a decode engine.
enum KVTransfer {
    /// `kv_transfer_params` of an answer, as JSON. An engine with a connector says, as vLLM's NIXL connector does, where the blocks lie
    /// that it was asked to compute for another; what else it was given comes back. Without one it says nothing.
    static func answer(to parameters: JSONValue?, promptBlocks: Int, configuration: StubConfiguration) -> String {
        guard configuration.hasKVConnector, let parameters else { return "null" }
        guard parameters["do_remote_decode"] == .bool(true) else { return parameters.text }
        return "{\"do_remote_prefill\":true,\"do_remote_decode\":false,"
            + "\"remote_block_ids\":[\((0..<promptBlocks).map { "\($0)" }.joined(separator: ","))],"
            + "\"remote_engine_id\":\(JSONText.string(configuration.servedBy ?? "stub")),\"remote_host\":\"127.0.0.1\","
            + "\"remote_port\":5600,\"tp_size\":\(configuration.group.worldSize)}"
    }
}
