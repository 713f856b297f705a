@testable import Simulation
import Testing
