"""The Gazebo simulator: world and car writers, the plugin's sources and the client.

Gazebo and ROS run in a container (compose/gazebo); here is all that a trainer needs to use it.
"""
