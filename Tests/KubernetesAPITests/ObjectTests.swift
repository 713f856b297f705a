import Foundation
import Testing

@testable import KubernetesAPI

@Suite struct ObjectTests {
    private func list<Object: KubernetesObject>(_ name: String, of type: Object.Type) throws -> [Object] {
        try JSONDecoder().decode(ListPage<Object>.self, from: Data(Transcript(name).body)).objects
    }

    @Test func slicesOfATerminatingPodSayHowFarItIs() throws {
        let endpoints = try list("50d-list-only-terminating", of: EndpointSlice.self).flatMap(\.endpoints)
        #expect(!endpoints.isEmpty)
        for endpoint in endpoints {
            #expect(endpoint.conditions.isTerminating)
            #expect(!endpoint.conditions.isReady)
            #expect(endpoint.targetRef?.kind == "Pod")
        }
        let empty = try #require(try list("50e-list-empty-slice", of: EndpointSlice.self).first)
        #expect(empty.endpoints.isEmpty && empty.ports.isEmpty && empty.service == "vllm")
    }

    @Test func conditionsThatAreNotThereHaveTheirMeaning() throws {
        func conditions(_ json: String) throws -> EndpointSlice.Conditions {
            try JSONDecoder().decode(EndpointSlice.Endpoint.self, from: Data(json.utf8)).conditions
        }
        for json in [#"{"addresses":["10.0.0.1"]}"#, #"{"addresses":["10.0.0.1"],"conditions":{}}"#] {
            let absent = try conditions(json)
            #expect(absent.isReady && absent.isServing && !absent.isTerminating)
        }
        let notReady = try conditions(#"{"addresses":["10.0.0.1"],"conditions":{"ready":false}}"#)
        #expect(!notReady.isReady && !notReady.isServing)
        let published = try conditions(#"{"addresses":["10.0.0.1"],"conditions":{"ready":true,"serving":false}}"#)
        #expect(published.isReady && !published.isServing)
    }

    @Test func podsCarryTheLabelsOfTheirGroup() throws {
        let pods = try list("61-lws-pods", of: Pod.self)
        #expect(pods.map(\.metadata.name) == ["lws-0", "lws-0-1"])
        #expect(pods[0].metadata.labels["leaderworkerset.sigs.k8s.io/worker-index"] == "0")
        #expect(pods.allSatisfy { !$0.isDeleting })
    }

    @Test func endpointsSayTheSameAsSlices() throws {
        let decoded = try JSONDecoder().decode(Endpoints.self, from: Data(Transcript("94-v1-endpoints").body))
        let addresses = Set(decoded.slices.flatMap(\.endpoints).flatMap(\.addresses))
        #expect(addresses.count > 1)
        #expect(decoded.slices.allSatisfy { $0.service == decoded.metadata.name })
    }

    @Test func zonesHintsAndPortNamesAreRead() throws {
        let slices = try list("65-zone-hints", of: EndpointSlice.self)
        #expect(slices.flatMap(\.endpoints).contains { !($0.hints?.forZones ?? []).isEmpty })
        let split = try list("62-named-targetport-two-slices", of: EndpointSlice.self)
        #expect(split.count == 2 && Set(split.compactMap { $0.ports.first?.port }).count == 2)
        #expect(Set(split.compactMap { $0.ports.first?.name }).count == 1)
    }
}
