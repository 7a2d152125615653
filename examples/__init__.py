"""Small programs to start from: an agent, a web application, a producer that speaks plain HTTP."""
