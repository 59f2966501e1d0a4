"""MQTT to Kafka API and back. Keeps no acknowledgement state. Imports covey only."""
