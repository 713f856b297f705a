// Fleets of simulated engines behind routers, on a virtual clock.
